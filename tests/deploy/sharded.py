"""A sharded cluster on this machine: two shards, a config server, and MongoDB's own router without a mongos.

A shard server has the router too, for its own transactions: `clusterFind`, `clusterInsert` and the like route to the shards
that own the documents, by the same code as mongos. Each shard's profiler records what arrived.
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
# Fields of the session and the driver, not of the command.
ENVELOPE = frozenset({"lsid", "txnNumber", "$db", "$clusterTime", "$readPreference", "maxTimeMS"})


class ShardedCluster:
    """Use it from the main thread: Linux kills each mongod when the thread that started it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in (CONFIG, *SHARDS)}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: dict[str, MongoClient] = {}

    def __enter__(self) -> "ShardedCluster":
        try:
            for name in self._ports:
                self._start(name)
            for name in self._ports:
                self._initiate(name)
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
        """Returns the database of one shard."""
        return self._clients[shard][DATABASE]

    def command_on(self, shard: str, command: dict) -> dict:
        """Sends a command to one shard, without routing."""
        database = self.on(shard)
        return database.command(command, codec_options=database.codec_options)

    def shard(self, collection: str, field: str) -> None:
        """Does what `sh.shardCollection("orderflow.<collection>", {<field>: "hashed"})` does through mongos."""
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
        """Routes a command as a driver sent it; returns its reply and the shards that it reached."""
        mark = uuid4().hex
        body = {key: value for key, value in command.items() if key not in ENVELOPE | {name}}
        reply = self.command_on(SHARDS[0], {ROUTED[name]: command[name], **body, "comment": mark})
        # The router's own profiler entry has another name of the command.
        seen = {"command.comment": mark, f"command.{ROUTED[name]}": {"$exists": False}}
        return reply, {shard for shard in SHARDS if self.on(shard)["system.profile"].find_one(seen)}

    def index(self, collection: str, indexes: list) -> None:
        """Makes the indexes on every shard, as mongos does: with the shard version, so that the shard checks them."""
        known = self._config.client.config
        about = known.collections.find_one({"_id": f"{DATABASE}.{collection}"})
        for shard in SHARDS:
            [newest] = known.chunks.find({"uuid": about["uuid"], "shard": shard}).sort("lastmod", -1).limit(1)
            version = {"t": about["timestamp"], "e": about["lastmodEpoch"], "v": newest["lastmod"]}
            specifications = [index.document for index in indexes]
            self.on(shard).command({"createIndexes": collection, "indexes": specifications, "shardVersion": version})

    def empty(self, collection: str) -> None:
        """Deletes all documents of a collection."""
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

    def _initiate(self, name: str) -> None:
        member = f"{HOST}:{self._ports[name]}"
        client: MongoClient = MongoClient(f"mongodb://{member}/?directConnection=true", tz_aware=True)
        self._clients[name] = client
        config = {"_id": name, "members": [{"_id": 0, "host": member}]}
        client.admin.command("replSetInitiate", config | ({"configsvr": True} if name == CONFIG else {}))
        while not client.admin.command("hello")["isWritablePrimary"]:
            time.sleep(0.01)
