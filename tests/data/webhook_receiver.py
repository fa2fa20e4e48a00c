"""A receiver of webhooks that shares no code with vmsync: Python's http.server, ssl and hmac.

webhook_receiver.py PORT LOG SECRET [CERTIFICATE KEY]

Writes a line of JSON to LOG for each post, and answers as the path asks:
  /first/N/CODE  the first N posts to this path get CODE, all others 204
  /each/N/CODE   the first N tries of each webhook-id get CODE with Retry-After: 1, then 204
Ends when its standard input does.
"""
import base64, hashlib, hmac, json, os, ssl, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, log_file, secret_line = int(sys.argv[1]), sys.argv[2], sys.argv[3]
key = base64.b64decode(secret_line.removeprefix("whsec_"))
lock = threading.Lock()
posts = {}


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        name, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signed = hmac.new(key, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(signed).decode()
        verified = hmac.compare_digest(expected, self.headers["webhook-signature"])
        verified = verified and abs(time.time() - int(at)) < 300
        _, how, count, code = self.path.split("/")
        counted = self.path if how == "first" else (self.path, name)
        with lock:
            before = posts.get(counted, 0)
            posts[counted] = before + 1
            answer = int(code) if before < int(count) else 204
            line = {"path": self.path, "id": name, "at": time.monotonic(), "verified": verified,
                    "answer": answer, "body": json.loads(body)}
            with open(log_file, "a") as log:
                log.write(json.dumps(line) + "\n")
        self.send_response(answer)
        if how == "each" and answer != 204:
            self.send_header("Retry-After", "1")
        if answer != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A client that does not trust the certificate goes away.
        pass


server = Server(("127.0.0.1", port), Receiver)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
os._exit(0)
