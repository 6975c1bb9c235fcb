"""A sharded cluster on this machine: two shards, a config server, and MongoDB's own router without a mongos.

A shard server carries the router too, for transactions of its own: `clusterFind`, `clusterInsert` and the like find out
which shards own what they are about, by the same code as mongos, and ask those. Each shard's profiler tells what came.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pymongo import MongoClient

from app.storage.embedded_mongod import HOST, TIED_TO_OWNER, find_binary
from tools.cluster.processes import free_port

CONFIG, SHARDS = "config", ("north", "south")
DATABASE = "orderflow"
MAJORITY = {"w": "majority"}
PROFILE_BYTES = 64 * 1024 * 1024
ROUTED = {
    "find": "clusterFind",
    "aggregate": "clusterAggregate",
    "insert": "clusterInsert",
    "update": "clusterUpdate",
}
# Of a session or a driver, and not of the command.
ENVELOPE = frozenset({"lsid", "txnNumber", "$db", "$clusterTime", "$readPreference", "maxTimeMS"})


class Cluster:
    """Use it from the main thread: Linux ends each mongod with the thread that started it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in (CONFIG, *SHARDS)}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: dict[str, MongoClient] = {}

    def __enter__(self) -> "Cluster":
        try:
            for name in self._ports:
                self._start(name)
            for name in self._ports:
                self._found(name)
            for shard in SHARDS:
                added = f"{shard}/{HOST}:{self._ports[shard]}"
                self._config.command({"_configsvrAddShard": added, "writeConcern": MAJORITY})
            self._config.command(
                {"_configsvrCreateDatabase": DATABASE, "primaryShardId": SHARDS[0], "writeConcern": MAJORITY}
            )
            for shard in SHARDS:
                self.on(shard).create_collection("system.profile", capped=True, size=PROFILE_BYTES)
                self.on(shard).command("profile", 2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    @property
    def _config(self) -> Any:
        return self._clients[CONFIG].admin

    def on(self, shard: str) -> Any:
        """The database as one shard has it."""
        return self._clients[shard][DATABASE]

    def tell(self, shard: str, command: dict) -> dict:
        """Send a command to one shard, as it is."""
        database = self.on(shard)
        return database.command(command, codec_options=database.codec_options)

    def shard(self, collection: str, field: str) -> None:
        """What `sh.shardCollection("orderflow.<collection>", {<field>: "hashed"})` does, through mongos."""
        version = self._config.client.config.databases.find_one({"_id": DATABASE})["version"]
        self.on(SHARDS[0]).command(
            {
                "_shardsvrCreateCollection": collection,
                "shardKey": {field: "hashed"},
                "numInitialChunks": 4,
                "databaseVersion": version,
                "writeConcern": MAJORITY,
            }
        )

    def run(self, name: str, command: dict) -> tuple[dict, set[str]]:
        """Route a command as a driver sent it; its reply, and the shards that it came to."""
        mark = uuid4().hex
        body = {key: value for key, value in command.items() if key not in ENVELOPE | {name}}
        reply = self.tell(SHARDS[0], {ROUTED[name]: command[name], **body, "comment": mark})
        # The router's own entry has its own name for the command.
        seen = {"command.comment": mark, f"command.{ROUTED[name]}": {"$exists": False}}
        return reply, {shard for shard in SHARDS if self.on(shard)["system.profile"].find_one(seen)}

    def index(self, collection: str, indexes: list) -> None:
        """Have every shard make indexes, as mongos has them: with the version of its share, so that it checks what a shard may have."""
        known = self._config.client.config
        about = known.collections.find_one({"_id": f"{DATABASE}.{collection}"})
        for shard in SHARDS:
            [newest] = known.chunks.find({"uuid": about["uuid"], "shard": shard}).sort("lastmod", -1).limit(1)
            version = {"t": about["timestamp"], "e": about["lastmodEpoch"], "v": newest["lastmod"]}
            wanted = [index.document for index in indexes]
            self.on(shard).command({"createIndexes": collection, "indexes": wanted, "shardVersion": version})

    def empty(self, collection: str) -> None:
        """Forget all documents of a collection."""
        for shard in SHARDS:
            self.on(shard)[collection].delete_many({})

    def _start(self, name: str) -> None:
        data = self._folder / name
        data.mkdir(parents=True)
        options = [
            "--configsvr" if name == CONFIG else "--shardsvr",
            f"--replSet={name}",
            f"--dbpath={data}",
            f"--port={self._ports[name]}",
            f"--bind_ip={HOST}",
            f"--logpath={data}.log",
            "--quiet",
            "--nounixsocket",
            "--networkMessageCompressors=snappy",
            "--wiredTigerCacheSizeGB=0.25",
            "--oplogSize=16",
            "--setParameter=diagnosticDataCollectionEnabled=false",
        ]
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), str(find_binary(os.environ)), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def _found(self, name: str) -> None:
        member = f"{HOST}:{self._ports[name]}"
        client: MongoClient = MongoClient(f"mongodb://{member}/?directConnection=true", tz_aware=True)
        self._clients[name] = client
        told = {"_id": name, "members": [{"_id": 0, "host": member}]}
        client.admin.command("replSetInitiate", told | ({"configsvr": True} if name == CONFIG else {}))
        while not client.admin.command("hello")["isWritablePrimary"]:
            time.sleep(0.01)
