# Two stages: built from the lock file, run by a user without rights on a small base.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p vmsync

FROM debian:bookworm-slim
COPY --from=build /src/target/release/vmsync /usr/local/bin/vmsync
# Mount volumes at both folders: a new volume takes owner and mode from the folder it is mounted on.
# No VOLUME line: it would leave two nameless volumes behind for every container that only runs `pki`.
RUN useradd --system --uid 990 --home-dir /var/lib/vmsync --no-create-home vmsync \
 && install -d -o vmsync -g vmsync -m 0700 /var/lib/vmsync /opt/vmpro/MM/VRL \
 && install -d /etc/vmsync
USER vmsync
ENTRYPOINT ["/usr/local/bin/vmsync"]
CMD ["serve", "--config", "/etc/vmsync/vmsync.toml"]
