"""Sentinels that watch one primary, as children."""

from redis import Redis
from redis.exceptions import RedisError

from adapters.embedded import free_port, valkey_path
from adapters.embedded_child import Child

SERVICE = "main"
DOWN_AFTER_MS = 1000


class EmbeddedSentinel(Child):
    """One sentinel: a primary that says nothing for a second is down for it."""

    def __init__(self, primary_port: int, *, quorum: int, password: str = "") -> None:
        super().__init__("sentinel")
        self.port = free_port()
        self._password = password
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 2000",
        ]
        if password:
            lines.append(f"requirepass {password}")
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n", "utf-8")
        self.start()

    def command(self) -> list[str]:
        return [str(valkey_path()), str(self.folder / "sentinel.conf"), "--sentinel"]

    def ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except RedisError:
            return False

    def client(self) -> "Redis":
        return Redis(
            host="127.0.0.1", port=self.port, password=self._password or None, socket_timeout=1
        )

    def primary(self) -> int:
        """The port of the server that it takes for the primary."""
        with self.client() as client:
            return int(client.sentinel_master(SERVICE)["port"])

    def knows(self, *, replicas: int, sentinels: int) -> bool:
        """Whether it has found so many replicas that are well, and so many other sentinels."""
        with self.client() as client:
            found = client.sentinel_slaves(SERVICE)
            others = client.sentinel_master(SERVICE)["num-other-sentinels"]
        well = [each for each in found if each["master-link-status"] == "ok"]
        return len(well) >= replicas and others >= sentinels
