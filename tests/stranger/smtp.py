"""SMTP between the nodes: a server with STARTTLS, 8BITMIME, CHUNKING and BINARYMIME, and a client.

RFC 5321, 3207 (STARTTLS), 1870 (SIZE), 3030 (CHUNKING, BINARYMIME), 2920 (PIPELINING); docs/wire-format.md section 1.
"""

import smtplib
import socket
import socketserver
import ssl

SIZE = 64 * 1024 * 1024


def contexts(tls):
    """TLS as server and as client, with this node's certificate and the pair's CA."""
    both = []
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cafile=tls["ca"])
        context.load_cert_chain(tls["cert"], tls["key"])
        # Whoever comes without certificate is refused at RCPT, with words, not in the handshake.
        context.verify_mode = ssl.CERT_OPTIONAL if purpose is ssl.Purpose.CLIENT_AUTH else ssl.CERT_REQUIRED
        both.append(context)
    return both


class Session(socketserver.StreamRequestHandler):
    """One connection from the node."""

    timeout = 60
    wbufsize = -1

    def handle(self):
        try:
            self.serve()
        except (OSError, ValueError):
            pass  # the line broke off: the sender assumes nothing and sends again

    def say(self, reply):
        self.wfile.write(reply.encode() + b"\r\n")
        self.wfile.flush()

    def line(self):
        line = self.rfile.readline(4096)
        if not line.endswith(b"\n"):
            raise ValueError("the connection ended")
        return line.decode("ascii", "replace").rstrip("\r\n")

    def serve(self):
        self.secure, self.trusted = False, False
        self.reset()
        self.say(f"220 {self.server.fqdn} ESMTP")
        while True:
            line = self.line()
            verb, _, rest = line.partition(" ")
            command = getattr(self, "do_" + verb.lower(), None)
            if command is None:
                self.say("500 5.5.1 unknown command")
            elif command(rest) == "end":
                return

    def reset(self):
        self.sender, self.recipient, self.chunks = None, None, []

    def do_ehlo(self, _):
        self.reset()
        offers = [self.server.fqdn, f"SIZE {SIZE}", "8BITMIME"]
        offers += [] if self.server.plain else ["PIPELINING", "CHUNKING", "BINARYMIME"]
        offers += [] if self.secure else ["STARTTLS"]
        for offer in offers[:-1]:
            self.say(f"250-{offer}")
        self.say(f"250 {offers[-1]}")

    def do_starttls(self, _):
        self.say("220 2.0.0 go ahead")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        # New files: what was sent in the clear behind STARTTLS is forgotten.
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        names = dict(self.connection.getpeercert() or {}).get("subjectAltName", ())
        self.secure = True
        self.trusted = ("DNS", self.server.peer_fqdn) in names

    def do_mail(self, rest):
        self.reset()
        self.sender = rest
        self.say("250 2.1.0 sender taken")

    def do_rcpt(self, rest):
        wanted = f"<vmsync@{self.server.fqdn}>"
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")
        elif not self.trusted:
            self.say("550 5.7.1 only with the peer's certificate")
        elif rest.partition(":")[2].strip().lower() != wanted:
            self.say("550 5.1.1 no such recipient")
        else:
            self.recipient = wanted
            self.say("250 2.1.5 recipient taken")

    def do_data(self, _):
        if not self.recipient:
            return self.say("503 5.5.1 RCPT first")
        self.say("354 go ahead")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                raise ValueError("the connection ended")
            lines.append(line.removeprefix(b"."))
        self.taken(b"".join(lines))

    def do_bdat(self, rest):
        size, _, last = rest.partition(" ")
        data = self.rfile.read(int(size))
        if len(data) != int(size):
            raise ValueError("the connection ended")
        if not self.recipient:
            return self.say("503 5.5.1 RCPT first")
        self.chunks.append(data)
        if last.upper() == "LAST":
            self.taken(b"".join(self.chunks))
        else:
            self.say(f"250 2.0.0 {size} bytes")

    def taken(self, raw):
        self.reset()
        self.say(self.server.take(raw))

    def do_rset(self, _):
        self.reset()
        self.say("250 2.0.0 ok")

    def do_noop(self, _):
        self.say("250 2.0.0 ok")

    def do_quit(self, _):
        self.say("221 2.0.0 bye")
        return "end"


class Server(socketserver.ThreadingTCPServer):
    """Takes mails; `take(bytes)` gives the reply to each."""

    allow_reuse_address = True
    daemon_threads = True
    plain = False

    def __init__(self, address, fqdn, peer_fqdn, tls, take):
        self.fqdn, self.peer_fqdn, self.tls, self.take = fqdn, peer_fqdn, tls, take
        super().__init__(address, Session)


class Client(smtplib.SMTP):
    """A connection to the node: to `address`, speaking to `fqdn`, as whom its certificate must name it."""

    def __init__(self, address, fqdn, own_fqdn, tls, plain=False):
        self.address, self.plain = address, plain
        super().__init__(fqdn, local_hostname=own_fqdn, timeout=20)
        if tls:
            self.starttls(context=tls)
        self.ehlo()

    def _get_socket(self, host, port, timeout):
        return socket.create_connection(self.address, timeout)

    def offers(self, extension):
        """Whether the node offers it, and this side uses such."""
        return self.has_extn(extension) and not self.plain

    def deliver(self, raw, sender, recipient, binary):
        """Sends one mail; gives the reply (code, text) that stands for all of it."""
        for code, text in (
            self.mail(sender, ["BODY=BINARYMIME"] if binary else []),
            self.rcpt(recipient),
        ):
            if code != 250:
                self.rset()
                return code, text.decode("utf-8", "replace")
        if self.offers("chunking"):
            self.send(b"BDAT %d LAST\r\n" % len(raw) + raw)
            code, text = self.getreply()
        else:
            code, text = self.data(raw)
        return code, text.decode("utf-8", "replace")
