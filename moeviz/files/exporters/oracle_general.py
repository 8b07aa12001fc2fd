"""Requests for libCacheSim, in its binary format oracleGeneral."""

from __future__ import annotations

import numpy as np

from moeviz.core.run import Run
from moeviz.files.exporters.registry import Export, exporter

_REQUEST = np.dtype(
    [("timestamp", "<u4"), ("obj_id", "<u8"), ("obj_size", "<u4"), ("next_access_vtime", "<i8")]
)


@exporter(
    "oracle-general",
    ".oracleGeneral.bin",
    "requests for libCacheSim, which does not pin, so its hit ratios differ from moeviz's",
)
def write(export: Export) -> bytes:
    """libCacheSim 0.3."""
    return oracle_general(export.run)


def oracle_general(run: Run) -> bytes:
    """Every access as a request of libCacheSim's binary format oracleGeneral (libCacheSim 0.3):
    little-endian, packed, 24 bytes each.

    timestamp is the forward pass, obj_id = layer x E + expert, obj_size the bytes of one expert (1 where the
    trace does not say), next_access_vtime the number of the next request for the same expert, -1 where none
    comes. The pinning of an event's experts is lost, and all layers share one cache there, so hit ratios come
    close to scope model here, and are not the same.
    """
    requests = np.zeros(len(run.accesses.event), _REQUEST)
    requests["timestamp"] = run.events.forward_pass[run.accesses.event]
    requests["obj_id"] = (
        run.events.layer[run.accesses.event].astype(np.int64) * run.experts + run.accesses.expert
    )
    requests["obj_size"] = np.maximum(run.layer_bytes, 1)[run.events.layer[run.accesses.event]]
    order = np.argsort(requests["obj_id"], kind="stable")
    same = requests["obj_id"][order][1:] == requests["obj_id"][order][:-1]
    following = np.full(len(order), -1, np.int64)
    following[order[:-1][same]] = order[1:][same]
    requests["next_access_vtime"] = following
    return requests.tobytes()
