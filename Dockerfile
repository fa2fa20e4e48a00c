# Two stages: built from the lock file, run by a user without rights on a small base.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p vmsync

FROM debian:bookworm-slim
COPY --from=build /src/target/release/vmsync /usr/local/bin/vmsync
RUN useradd --system --uid 990 --home-dir /var/lib/vmsync --create-home vmsync \
 && mkdir -p /opt/vmpro/MM/VRL /etc/vmsync \
 && chown vmsync: /opt/vmpro/MM/VRL /etc/vmsync
USER vmsync
VOLUME ["/var/lib/vmsync", "/opt/vmpro/MM/VRL"]
ENTRYPOINT ["/usr/local/bin/vmsync"]
CMD ["serve", "--config", "/etc/vmsync/vmsync.toml"]
