#!/usr/bin/env python3
"""Reads Tickcast frames with nothing but SPEC.md and the standard library.

Written by hand from SPEC, to find out whether SPEC is enough: no table, layout or number here comes
from the program. Each offset and rule names the section it was read in.

    spec_reader.py golden DIR                                 decode every golden file, refuse every corrupt one
    spec_reader.py follow ws://127.0.0.1:PORT/ws FILTER COUNT [PREDICATE]
                                                              print COUNT events of a live server
"""

import base64
import hashlib
import json
import os
import socket
import struct
import sys
import zlib
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

# SPEC 12, the table of limits
PAYLOAD_BYTES_MAX = 1_048_576
TEXT_BYTES_MAX = 16_384
LIST_LEN_MAX = 1_024
JSON_DEPTH_MAX = 32
DIGITS_MAX = 18
EXPONENT_MAX = 64
KEY_BYTES_MAX = 112

# SPEC 12, the table of rules: the code each is answered with
RULES = {
    **{f"12.{rule}": "BAD_REQUEST" for rule in (1, 2, 4, 7, 8, 10, 11, 12, 13, 14, 15, 24)},
    "12.3": "SCHEMA_MISMATCH", "12.5": "MESSAGE_TOO_LARGE", "12.6": "UNSUPPORTED_FORMAT", "12.9": "UNKNOWN_TYPE",
    **{f"12.{rule}": "INVALID_FIELD" for rule in (*range(16, 24), 25)},
}


class Refused(Exception):
    """A corrupt frame: the rule of SPEC 12 it breaks, and the field at fault."""

    def __init__(self, rule, field):
        super().__init__(f"rule {rule} of SPEC 12 is broken by `{field}`")
        self.rule, self.field = rule, field


class Violation(Exception):
    """What a server must not do, or a golden file must not be, in a sentence."""


# ------------------------------------------------------------------------------------------------------
# Values that JSON writes in a way of its own

class Number(namedtuple("Number", "text")):
    """A number as it was written, to the digit."""


class Spliced(namedtuple("Spliced", "text")):
    """JSON that is put into JSON as it is. SPEC 4.10"""


class Fixed(namedtuple("Fixed", "mantissa exponent")):
    """A decimal. SPEC 4.5"""

    def plain(self):
        sign, digits = "-" * (self.mantissa < 0), str(abs(self.mantissa))
        if self.exponent >= 0:
            return sign + digits + "0" * (self.exponent if self.mantissa else 0)
        digits = digits.rjust(1 - self.exponent, "0")
        return f"{sign}{digits[:self.exponent]}.{digits[self.exponent:]}"


def rfc3339(ns):  # SPEC 4.6
    seconds, fraction = divmod(ns, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    digits = f".{fraction:09}".rstrip("0") if fraction else ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + digits + "Z"


def parse_json(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=refuse)


def to_json(value):  # SPEC 13, the table of kinds
    if isinstance(value, Fixed):
        return value.plain()
    if isinstance(value, (Spliced, Number)):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(name)}:{to_json(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------
# SPEC 4: primitive layouts

class Payload:
    """The bytes of a payload, and how far their out-of-line data was read."""

    def __init__(self, data):
        self.data, self.mark = data, 0

    def number(self, layout, at):  # SPEC 4: little-endian, without padding
        return struct.unpack_from("<" + layout, self.data, at)[0]

    def claim(self, start, length, limit):  # SPEC 4.12
        if start < 0 or start + length > limit:
            raise Refused("12.11", "payload")
        if start < self.mark:
            raise Refused("12.12", "payload")


# A kind: its size, and how it is read. `limit` is where out-of-line data must end (SPEC 4.12), `path` the
# field's path for refusals (SPEC 12).
Kind = namedtuple("Kind", "size read")
ABSENT = object()


def plain(layout):  # SPEC 4.1
    return Kind(struct.calcsize("<" + layout), lambda payload, at, limit, path: payload.number(layout, at))


def read_bool(payload, at, limit, path):  # SPEC 4.1
    if payload.data[at] > 1:
        raise Refused("12.15", "payload")
    return payload.data[at] == 1


def read_f64(payload, at, limit, path):  # SPEC 4.1
    value = payload.number("d", at)
    if value != value or value in (float("inf"), float("-inf")):
        raise Refused("12.18", path)
    return value


def read_text(payload, at, limit, path):  # SPEC 4.2
    if payload.data[at] & 0xC0 != 0x80:
        raw = payload.data[at:at + 8].split(b"\xff", 1)[0]
    else:
        word, offset = payload.number("I", at), payload.number("i", at + 4)
        length, start = (word & 0x3F) | ((word & 0xFFFFFF00) >> 2), at + offset
        if length <= 8:
            raise Refused("12.13", "payload")
        payload.claim(start, length, limit)
        payload.mark = start + length
        raw = payload.data[start:start + length]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("12.14", "payload") from None
    if len(raw) > TEXT_BYTES_MAX:
        raise Refused("12.16", path)
    return text


def items(kind, payload, at, limit, path, bound=LIST_LEN_MAX):  # SPEC 4.3
    offset, count = payload.number("i", at), payload.number("I", at + 4)
    start = at + offset
    end = start + count * kind.size
    payload.claim(start, count * kind.size, limit)
    if count > bound:
        raise Refused("12.17", path)
    # What the elements describe lies before the first of them: SPEC 4.12, 2.
    for index in range(count):
        yield kind.read(payload, start + index * kind.size, start, f"{path}.{index}")
    payload.mark = end


def list_of(kind):  # SPEC 4.3
    return Kind(8, lambda *place: list(items(kind, *place)))


def opt(kind):  # SPEC 4.4
    def read(payload, at, limit, path):
        if payload.data[at] > 1:
            raise Refused("12.15", "payload")
        return kind.read(payload, at + 1, limit, path) if payload.data[at] else ABSENT

    return Kind(1 + kind.size, read)


def read_decimal(payload, at, limit, path):  # SPEC 4.5
    mantissa, exponent = payload.number("q", at), payload.number("b", at + 8)
    if abs(mantissa) >= 10 ** DIGITS_MAX:
        raise Refused("12.19", path)
    if abs(exponent) > EXPONENT_MAX:
        raise Refused("12.20", path)
    return Fixed(mantissa, exponent)


def name(*members):  # SPEC 4.7; a member is None where the set has no such number
    def read(payload, at, limit, path):
        number = payload.data[at]
        return (members[number] if number < len(members) else None) or number

    return Kind(1, read)


def record(*fields):  # SPEC 4.8
    def read(payload, at, limit, path):
        values = ((field, kind.read(payload, at + offset, limit, f"{path}.{field}")) for offset, field, kind in fields)
        return {field: value for field, value in values if value is not ABSENT}

    return Kind(fields[-1][0] + fields[-1][2].size, read)


def read_scalar(payload, at, limit, path):  # SPEC 4.9
    tag, inner = payload.data[at], at + 1
    if tag == 0:
        return None
    if tag > 6:
        raise Refused("12.15", "payload")
    kind = {1: boolean, 2: i64, 3: f64, 4: text, 5: list_of(f64), 6: json_text}[tag]
    return kind.read(payload, inner, limit, path)


def read_entry(payload, at, limit, path):  # SPEC 4.9; the path of an entry is its key, not its place
    path = path.rpartition(".")[0]
    key = read_text(payload, at, limit, path)
    return key, read_scalar(payload, at + 8, limit, f"{path}.{key}")


def read_map(*place):  # SPEC 4.9
    return dict(items(Kind(17, read_entry), *place))


def read_json(payload, at, limit, path):  # SPEC 4.10
    line = read_text(payload, at, limit, path)
    depth, deepest, quoted, escaped = 0, 0, False, False
    for letter in line:
        if escaped:
            escaped = False
        elif quoted and letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif not quoted and letter in "]}":
            depth -= 1
    try:
        if deepest > JSON_DEPTH_MAX or "\n" in line or "\r" in line:
            raise ValueError
        parse_json(line)
    except ValueError:
        raise Refused("12.21", path) from None
    return Spliced(line)


def read_bytes(*place):  # SPEC 4.11; bounded by the frame only, SPEC 12.17
    return bytes(items(u8, *place, bound=PAYLOAD_BYTES_MAX)).hex()


u8, u16, u32, u64, i64 = plain("B"), plain("H"), plain("I"), plain("Q"), plain("q")
boolean, f64, text, decimal = Kind(1, read_bool), Kind(8, read_f64), Kind(8, read_text), Kind(9, read_decimal)
time = Kind(8, lambda payload, at, limit, path: rfc3339(payload.number("q", at)))
free_map, json_text, blob = Kind(8, read_map), Kind(8, read_json), Kind(8, read_bytes)

# ------------------------------------------------------------------------------------------------------
# SPEC 9: name sets, by number from 0

ROLE = name(None, "subscriber", "publisher", "both")  # SPEC 9 role
START = name("live", "snapshot")  # SPEC 9 start
POLICY = name("default", "conflate", "drop_oldest", "disconnect")  # SPEC 9 policy
SUBSCRIPTION_STATUS = name(None, "subscribed", "unsubscribed", "updated")  # SPEC 9 subscription_status
CLASS = name(None, "latest", "ordered", "critical")  # SPEC 9 class
DURABILITY = name("memory", "os", "disk", "quorum")  # SPEC 9 durability
PUBLISH_STATUS = name(None, "accepted", "duplicate", "conflict", "refused", "not_durable")  # SPEC 9 publish_status
NOTICE_KIND = name(None, "loss", "upstream_gap", "draining", "counts", "closing")  # SPEC 9 notice_kind
REASON = name("none", "outbox_full", "lapped", "upstream", "history_gone", "rate", "drain",
              "filter")  # SPEC 9 reason
STREAM_STATE = name(None, "live", "idle", "suspect", "stale", "replay", "closed")  # SPEC 9 stream_state
STATE_REASON = name("none", "event", "quiet", "vouched", "source_gone", "upstream", "said")  # SPEC 9 state_reason
INTERVAL_ORIGIN = name("none", "set", "learned")  # SPEC 9 interval_origin
SOURCE_STATUS = name(None, "alive", "lost", "closed", "replay")  # SPEC 9 source_status
BRACKET = name(None, "snapshot", "replay")  # SPEC 9 bracket
SIDE = name(None, "buy", "sell")  # SPEC 9 side
BOOK_KIND = name(None, "snapshot", "delta")  # SPEC 9 book_kind
OPTION_TYPE = name(None, "call", "put")  # SPEC 9 option_type
DIRECTION = name(None, "bullish", "bearish", "neutral")  # SPEC 9 direction
SEVERITY = name("info", "low", "medium", "high", "critical", "emergency")  # SPEC 9 severity
TREND = name(None, "increasing", "decreasing", "stable")  # SPEC 9 trend
DECISION = name(None, "buy", "sell", "hold", "close_position")  # SPEC 9 decision
EXECUTION_STATUS = name(None, "execution", "fill", "partial_fill")  # SPEC 9 execution_status
ORDER_STATUS = name(None, "pending", "open", "filled", "partial", "cancelled", "rejected")  # SPEC 9 order_status
POSITION_SIDE = name(None, "long", "short", "flat")  # SPEC 9 position_side
RISK_TYPE = name(None, "loss_limit", "time_limit", "volatility", "correlation", "other")  # SPEC 9 risk_type
SESSION_STATE = name(  # SPEC 9 session_state
    None, "started", "active", "paused", "completed", "expired", "emergency_stopped")
DELIVERY_OUTCOME = name(None, "acked", "expired", "revoked", "superseded")  # SPEC 9 delivery_outcome
HEALTH = name(None, "healthy", "degraded", "error")  # SPEC 9 health
ENGINE_STATE = name(None, "starting", "running", "stopping", "stopped", "error")  # SPEC 9 engine_state

# ------------------------------------------------------------------------------------------------------
# SPEC 8: nested records

FULL_RECIPIENT = record(  # SPEC 8 full_recipient
    (0, "identity", text), (8, "waiting", u32), (12, "oldest_age_ms", u64))
SPAN = record((0, "from", u64), (8, "through", u64))  # SPEC 8 span
POSITION = record((0, "topic", text), (8, "class", CLASS), (9, "sequence", u64))  # SPEC 8 position
BINDING = record(  # SPEC 8 binding
    (0, "stream", u32), (4, "topic", text), (12, "class", CLASS), (13, "next_sequence", u64))
HEAD = record((0, "stream", u32), (4, "sequence", u64), (12, "through", u64))  # SPEC 8 head
STREAM_STATUS = record(  # SPEC 8 stream_status
    (0, "stream", u32), (4, "state", STREAM_STATE), (5, "reason", STATE_REASON), (6, "origin", INTERVAL_ORIGIN),
    (7, "interval_ms", u32), (11, "since", time), (19, "last_sequence", u64))
KEPT = record((0, "stream", u32), (4, "oldest", u64), (12, "oldest_time", time))  # SPEC 8 kept
HOLDING = record(  # SPEC 8 holding
    (0, "symbol", text), (8, "quantity", decimal), (17, "average_price", decimal), (26, "market_price", decimal),
    (35, "unrealized_pnl", decimal), (44, "unrealized_pnl_ratio", f64))
LEVEL = record((0, "price", decimal), (9, "quantity", decimal))  # SPEC 8 level

# ------------------------------------------------------------------------------------------------------
# SPEC 6 and 7: messages

Message = namedtuple("Message", "name key any_of bounds fields")
MESSAGES = {}


def message(type_id, type_name, *fields, key=(), any_of=(), bounds=()):
    MESSAGES[type_id] = Message(type_name, key, any_of, bounds, fields)


def within(field, least, most):  # SPEC 7: `field` is least to most
    return field, lambda values: least <= values[field] <= most


def at_most(field, number):  # SPEC 7: `field` has no more elements than `number` says
    return field, lambda values: len(values[field]) <= values[number]


# SPEC 6.1
message(1, "hello", (0, "role", ROLE), (1, "name", text), (9, "client", text), (17, "codecs", u8))
# SPEC 6.2
message(2, "welcome", (0, "boot_id", u64), (8, "epoch", u64), (16, "connection", u64), (24, "server", text),
        (32, "heartbeat_ms", u32), (36, "frame_bytes_max", u32), (40, "subscriptions_max", u32),
        (44, "server_time", time), (52, "codecs", u8))
# SPEC 6.3
message(3, "subscribe", (0, "request", u64), (8, "filter", text), (16, "start", START), (17, "policy", POLICY),
        (18, "predicate", text), (26, "max_hz", f64))
# SPEC 6.4
message(4, "acknowledge", (0, "request", u64), (8, "subscription", u32), (12, "status", SUBSCRIPTION_STATUS),
        (13, "epoch", u64), (21, "streams", u32))
# SPEC 6.5
message(5, "bind", (0, "subscription", u32), (4, "bindings", list_of(BINDING)))
# SPEC 6.6
message(6, "unsubscribe", (0, "request", u64), (8, "subscription", u32))
# SPEC 6.7
message(7, "publish", (0, "request", u64), (8, "topic", text), (16, "id", text), (24, "durability", DURABILITY),
        (25, "expires_at", time), (33, "collapse_key", text))
# SPEC 6.8
message(8, "published", (0, "request", u64), (8, "status", PUBLISH_STATUS), (9, "topic", text),
        (17, "sequence", u64), (25, "durability", DURABILITY), (26, "code", u16), (28, "field", text),
        (36, "message", text), (44, "position", u64), (52, "queued", u32), (56, "full", list_of(FULL_RECIPIENT)))
# SPEC 6.9
message(9, "ping", (0, "client_time", time), (8, "sequence", u64))
# SPEC 6.10
message(10, "pong", (0, "client_time", time), (8, "server_time", time), (16, "sequence", u64))
# SPEC 6.11
message(11, "notice", (0, "kind", NOTICE_KIND), (1, "subscription", u32), (5, "stream", u32), (9, "from", u64),
        (17, "through", u64), (25, "conflated", u64), (33, "gapped", u64), (41, "filtered", u64),
        (49, "reason", REASON), (50, "reconnect_in_ms", u32))
# SPEC 6.12
message(12, "error", (0, "request", u64), (8, "code", u16), (10, "message", text), (18, "field", text),
        (26, "retryable", boolean), (27, "retry_after_ms", u32))
# SPEC 6.13
message(13, "resume", (0, "request", u64), (8, "filter", text), (16, "epoch", u64),
        (24, "positions", list_of(POSITION)), (32, "policy", POLICY), (33, "predicate", text), (41, "max_hz", f64))
# SPEC 6.14
message(14, "begin", (0, "subscription", u32), (4, "bracket", BRACKET), (5, "events", u32))
# SPEC 6.15
message(15, "end", (0, "subscription", u32), (4, "bracket", BRACKET))
# SPEC 6.16
message(16, "heartbeat", (0, "server_time", time), (8, "heads", list_of(HEAD)))
# SPEC 6.17
message(17, "configure", (0, "request", u64), (8, "subscription", u32), (12, "policy", POLICY),
        (13, "predicate", text), (21, "max_hz", f64))
# SPEC 6.18
message(18, "skip", (0, "topic", text), (8, "count", u64))
# SPEC 6.30
message(30, "stream_states", (0, "states", list_of(STREAM_STATUS)))
# SPEC 6.31
message(31, "vouch", (0, "request", u64), (8, "status", SOURCE_STATUS), (9, "topics", list_of(text)),
        (17, "interval_ms", u32))
# SPEC 6.32
message(32, "since", (0, "request", u64), (8, "filter", text), (16, "time", time), (24, "policy", POLICY),
        (25, "predicate", text), (33, "max_hz", f64))
# SPEC 6.33
message(33, "history", (0, "subscription", u32), (4, "begun", time), (12, "short", list_of(KEPT)))
# SPEC 6.40
message(40, "identify", (0, "request", u64), (8, "identity", text), (16, "token", text))
# SPEC 6.41
message(41, "identified", (0, "request", u64), (8, "identity", text), (16, "token", text),
        (24, "durability", DURABILITY), (25, "window", u32), (29, "ack_timeout_ms", u32))
# SPEC 6.42
message(42, "deliver", (0, "position", u64), (8, "attempt", u32), (12, "topic", text), (20, "sequence", u64),
        (28, "publisher", text), (36, "id", text), (44, "accepted_at", time), (52, "expires_at", time))
# SPEC 6.43
message(43, "ack", (0, "through", u64), (8, "spans", list_of(SPAN)))

# SPEC 7.100
message(100, "market_data", (0, "symbol", text), (8, "ts", time), (16, "price", opt(decimal)),
        (26, "volume", opt(decimal)), (36, "bid", opt(decimal)), (46, "ask", opt(decimal)),
        (56, "bid_size", opt(decimal)), (66, "ask_size", opt(decimal)), (76, "open", opt(decimal)),
        (86, "high", opt(decimal)), (96, "low", opt(decimal)), (106, "prev_close", opt(decimal)),
        (116, "change", opt(decimal)), (126, "change_ratio", opt(f64)), (135, "venue", opt(text)),
        (144, "asset_class", opt(text)), (153, "instrument_id", opt(u32)),
        key=("symbol",), any_of=("price", "bid", "ask"))
# SPEC 7.101
message(101, "bar", (0, "symbol", text), (8, "timeframe", text), (16, "ts", time), (24, "open", decimal),
        (33, "high", decimal), (42, "low", decimal), (51, "close", decimal), (60, "volume", decimal),
        (69, "closed", boolean), (70, "venue", opt(text)), key=("timeframe", "symbol"))
# SPEC 7.102
message(102, "public_trade", (0, "symbol", text), (8, "ts", time), (16, "price", decimal), (25, "size", decimal),
        (34, "side", opt(SIDE)), (36, "trade_id", opt(text)), (45, "venue", opt(text)),
        (54, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.103
message(103, "options_flow", (0, "symbol", text), (8, "ts", time), (16, "strike", decimal), (25, "expiry", text),
        (33, "option_type", OPTION_TYPE), (34, "volume", decimal), (43, "premium", decimal),
        (52, "currency", opt(text)), (61, "direction", DIRECTION), (62, "unusual", boolean), (63, "sweep", boolean),
        (64, "block", boolean), key=("symbol",))
# SPEC 7.104
message(104, "alert", (0, "symbol", text), (8, "alert_id", u64), (16, "rule_id", u64), (24, "rule_name", text),
        (32, "condition", text), (40, "target_value", decimal), (49, "current_value", decimal),
        (58, "severity", SEVERITY), (59, "message", text), (67, "rule_condition", text), (75, "ts", time),
        (83, "evaluation_time_ms", opt(u32)), (88, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.105
message(105, "analytics_update", (0, "symbol", text), (8, "analysis_type", text), (16, "results", free_map),
        (24, "calculated_at", time), (32, "next_update", opt(time)), (41, "confidence_score", opt(f64)),
        (50, "data_quality_score", opt(f64)), (59, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.106
message(106, "technical_indicators", (0, "symbol", text), (8, "timeframe", text), (16, "indicators", free_map),
        (24, "calculated_at", time), (32, "indicator_quality", opt(free_map)), (41, "instrument_id", opt(u32)),
        key=("symbol",))
# SPEC 7.107
message(107, "price_prediction", (0, "symbol", text), (8, "model_name", text), (16, "horizon_minutes", u32),
        (20, "predicted_price", decimal), (29, "lower", decimal), (38, "upper", decimal),
        (47, "calculated_at", time), (55, "accuracy", opt(f64)), (64, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.108
message(108, "risk_metrics", (0, "symbol", text), (8, "var_1d", f64), (16, "var_5d", f64), (24, "volatility", f64),
        (32, "calculated_at", time), (40, "beta", opt(f64)), (49, "sharpe_ratio", opt(f64)),
        (58, "max_drawdown", opt(f64)), (67, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.109
message(109, "portfolio_risk_metric", (0, "portfolio_id", text), (8, "metric_type", text), (16, "value", f64),
        (24, "ts", time), (32, "percentile", opt(f64)), (41, "historical_avg", opt(f64)), (50, "trend", opt(TREND)),
        (52, "confidence_level", opt(f64)), (61, "calculation_method", opt(text)),
        (70, "lookback_period", opt(text)), key=("portfolio_id",))
# SPEC 7.110
message(110, "signal", (0, "symbol", text), (8, "decision", DECISION), (9, "price", decimal),
        (18, "confidence", f64), (26, "ts", time), (34, "quantity", opt(decimal)), (44, "strategy_id", opt(text)),
        key=("symbol",))
# SPEC 7.111
message(111, "algorithm_decision", (0, "session_id", text), (8, "algorithm_id", text), (16, "decision", DECISION),
        (17, "reasoning", text), (25, "confidence", f64), (33, "symbol", text), (41, "price", decimal),
        (50, "volume", decimal), (59, "ts", time), key=("session_id",))
# SPEC 7.112
message(112, "trade_executed", (0, "user_id", text), (8, "trade_id", text), (16, "symbol", text),
        (24, "side", SIDE), (25, "quantity", decimal), (34, "price", decimal), (43, "status", EXECUTION_STATUS),
        (44, "ts", time), (52, "order_id", opt(text)), (61, "execution_id", opt(text)),
        (70, "portfolio_id", opt(text)), (79, "session_id", opt(text)), (88, "filled_quantity", opt(decimal)),
        (98, "remaining_quantity", opt(decimal)), (108, "avg_fill_price", opt(decimal)),
        (118, "commission", opt(decimal)), (128, "fees", opt(decimal)), (138, "currency", opt(text)),
        (147, "venue", opt(text)), (156, "slippage_bps", opt(f64)), key=("user_id",))
# SPEC 7.113
message(113, "order_update", (0, "user_id", text), (8, "order_id", text), (16, "symbol", text),
        (24, "status", ORDER_STATUS), (25, "side", SIDE), (26, "quantity", decimal), (35, "filled_quantity", decimal),
        (44, "remaining_quantity", decimal), (53, "ts", time), (61, "order_type", opt(text)),
        (70, "price", opt(decimal)), (80, "avg_fill_price", opt(decimal)), (90, "time_in_force", opt(text)),
        (99, "cancel_reason", opt(text)), (108, "reject_reason", opt(text)), (117, "portfolio_id", opt(text)),
        (126, "venue", opt(text)), key=("user_id",))
# SPEC 7.114
message(114, "position_update", (0, "portfolio_id", text), (8, "symbol", text), (16, "side", POSITION_SIDE),
        (17, "quantity", decimal), (26, "average_price", decimal), (35, "unrealized_pnl", decimal), (44, "ts", time),
        (52, "market_price", opt(decimal)), (62, "realized_pnl", opt(decimal)), (72, "cost_basis", opt(decimal)),
        (82, "market_value", opt(decimal)), (92, "day_pnl", opt(decimal)), (102, "currency", opt(text)),
        key=("portfolio_id",))
# SPEC 7.115
message(115, "portfolio_snapshot", (0, "portfolio_id", text), (8, "positions", list_of(HOLDING)),
        (16, "total_pnl", decimal), (25, "position_count", u32), (29, "ts", time), (37, "currency", opt(text)),
        key=("portfolio_id",))
# SPEC 7.116
message(116, "performance_update", (0, "portfolio_id", text), (8, "pnl", decimal), (17, "returns", f64),
        (25, "ts", time), (33, "strategy_id", opt(text)), (42, "sharpe_ratio", opt(f64)),
        (51, "max_drawdown", opt(f64)), (60, "win_rate", opt(f64)), (69, "profit_factor", opt(f64)),
        (78, "total_trades", opt(u64)), (87, "winning_trades", opt(u64)), (96, "losing_trades", opt(u64)),
        (105, "currency", opt(text)), key=("portfolio_id",))
# SPEC 7.117
message(117, "strategy_performance", (0, "strategy_id", text), (8, "strategy_name", text), (16, "total_return", f64),
        (24, "sharpe_ratio", f64), (32, "max_drawdown", f64), (40, "trade_count", u64), (48, "ts", time),
        (56, "win_rate", opt(f64)), (65, "profit_factor", opt(f64)), (74, "calmar_ratio", opt(f64)),
        (83, "sortino_ratio", opt(f64)), (92, "alpha", opt(f64)), (101, "beta", opt(f64)), key=("strategy_id",))
# SPEC 7.118
message(118, "execution_analytics", (0, "symbol", text), (8, "execution_id", text), (16, "fill_price", decimal),
        (25, "benchmark_price", decimal), (34, "slippage", decimal), (43, "ts", time), (51, "slippage_bps", opt(f64)),
        (60, "execution_time_ms", opt(u32)), (65, "fill_ratio", opt(f64)), (74, "market_impact", opt(f64)),
        (83, "portfolio_id", opt(text)), key=("symbol",))
# SPEC 7.119
message(119, "risk_alert", (0, "scope", text), (8, "risk_type", RISK_TYPE), (9, "severity", SEVERITY),
        (10, "message", text), (18, "current_value", decimal), (27, "threshold", decimal), (36, "ts", time),
        (44, "metric", opt(text)), (53, "limit_value", opt(decimal)), (63, "recommended_action", opt(text)),
        (72, "auto_action_taken", opt(text)), (81, "portfolio_id", opt(text)), (90, "session_id", opt(text)),
        key=("scope",))
# SPEC 7.120
message(120, "breach_alert", (0, "portfolio_id", text), (8, "breach_type", text), (16, "severity", SEVERITY),
        (17, "limit_type", text), (25, "current_value", decimal), (34, "limit_value", decimal), (43, "ts", time),
        (51, "breach_ratio", opt(f64)), (60, "breach_duration_s", opt(f64)), (69, "auto_action", opt(text)),
        key=("portfolio_id",))
# SPEC 7.121
message(121, "session_status", (0, "session_id", text), (8, "user_id", text), (16, "status", SESSION_STATE),
        (17, "transition", boolean), (18, "current_pnl", decimal), (27, "total_trades", u64),
        (35, "loss_limit_utilization", f64), (43, "time_elapsed_s", f64), (51, "performance_score", f64),
        (59, "ts", time), (67, "currency", opt(text)), key=("session_id",))
# SPEC 7.122
message(122, "notification", (0, "audience", text), (8, "title", text), (16, "message", text),
        (24, "severity", SEVERITY), (25, "ts", time), (33, "notification_id", opt(text)), (42, "category", opt(text)),
        (51, "user_id", opt(text)), key=("audience",))
# SPEC 7.123
message(123, "system_alert", (0, "component", text), (8, "alert_type", text), (16, "severity", SEVERITY),
        (17, "description", text), (25, "ts", time), (33, "metric", opt(text)), (42, "current_value", opt(f64)),
        (51, "threshold", opt(f64)), key=("component",))
# SPEC 7.124
message(124, "system_health", (0, "component", text), (8, "status", HEALTH), (9, "ts", time),
        (17, "cpu_usage", opt(f64)), (26, "memory_usage", opt(f64)), (35, "disk_usage", opt(f64)),
        (44, "active_connections", opt(u64)), (53, "error_rate", opt(f64)), (62, "throughput", opt(f64)),
        (71, "uptime_s", opt(f64)), (80, "version", opt(text)), key=("component",))
# SPEC 7.125
message(125, "engine_status", (0, "engine_id", text), (8, "state", ENGINE_STATE), (9, "transition", boolean),
        (10, "uptime_s", f64), (18, "ts", time), (26, "cpu_usage", opt(f64)), (35, "memory_usage", opt(f64)),
        (44, "active_strategies", opt(u32)), (49, "orders_processed", opt(u64)), (58, "trades_executed", opt(u64)),
        (67, "error_count", opt(u64)), key=("engine_id",))
# SPEC 7.126
message(126, "event", (0, "event_type", text), (8, "event_id", text), (16, "source", text), (24, "ts", time),
        (32, "title", opt(text)), (41, "description", opt(text)), (50, "tags", list_of(text)),
        (58, "details", opt(free_map)), (67, "user_id", opt(text)), (76, "session_id", opt(text)),
        key=("event_type",))
# SPEC 7.127
message(127, "stream_health", (0, "stream", text), (8, "is_healthy", boolean), (9, "error_count", u64),
        (17, "recovery_attempts", u64), (25, "started_at", time), (33, "last_update", opt(time)), key=("stream",))
# SPEC 7.128
message(128, "sentiment", (0, "symbol", text), (8, "overall_score", f64), (16, "overall_level", text),
        (24, "confidence", f64), (32, "total_mentions", u64), (40, "ts", time), (48, "providers", opt(free_map)),
        key=("symbol",))
# SPEC 7.129
message(129, "order_book", (0, "symbol", text), (8, "ts", time), (16, "kind", BOOK_KIND), (17, "bids", list_of(LEVEL)),
        (25, "asks", list_of(LEVEL)), (33, "checksum", opt(u32)), (38, "depth", opt(u32)), (43, "venue", opt(text)),
        (52, "instrument_id", opt(u32)), key=("symbol",))
# SPEC 7.131
message(131, "delivery_report", (0, "publisher", text), (8, "id", text), (16, "position", u64),
        (24, "recipient", text), (32, "outcome", DELIVERY_OUTCOME), (33, "ts", time), key=("publisher",))
# SPEC 7.132
message(132, "partial_book", (0, "symbol", text), (8, "ts", time), (16, "depth", u32), (20, "bids", list_of(LEVEL)),
        (28, "asks", list_of(LEVEL)), (36, "book_sequence", u64), (44, "checksum", opt(u32)), (49, "venue", opt(text)),
        (58, "instrument_id", opt(u32)), key=("depth", "symbol"),
        bounds=(within("depth", 1, 100), at_most("bids", "depth"), at_most("asks", "depth")))
# SPEC 7.1000
message(1000, "extension", (0, "name", text), (8, "key", text), (16, "ts", time), (24, "critical", boolean),
        (25, "json", opt(json_text)), (34, "bytes", opt(blob)), (43, "symbol", opt(text)), (52, "user_id", opt(text)),
        (61, "session_id", opt(text)), (70, "portfolio_id", opt(text)), key=("name", "key"), any_of=("json", "bytes"))

# ------------------------------------------------------------------------------------------------------
# SPEC 3: frames

Header = namedtuple(
    "Header", "type_id schema_version flags root_len stream sequence publish_time payload_len raw_len")
HEADER_LEN = 40
CRITICAL = 1
LZ4 = 1  # SPEC 3, flags: the one codec this reader knows, and its bit in hello.codecs
DATA_FIRST = 100  # SPEC 5


def split_first(data, limit=PAYLOAD_BYTES_MAX):
    """Takes the first frame off `data`: its header, its payload, and what follows."""
    if len(data) < HEADER_LEN:
        raise Refused("12.1", "payload_len")
    magic, protocol, header_len = struct.unpack_from("<HBB", data, 0)  # SPEC 3, offsets 0, 2, 3
    if magic != 0x4354:
        raise Refused("12.2", "magic")
    if protocol != 2:
        raise Refused("12.3", "protocol")
    if header_len < 5:
        raise Refused("12.4", "header_len")
    if len(data) < header_len * 8:
        raise Refused("12.1", "payload_len")
    # SPEC 3: type_id 4, schema_version 6, flags 8, root_len 10, stream 12, sequence 16, publish_time 24,
    # payload_len 32, raw_len 36
    header = Header(*struct.unpack_from("<HHHHIQQII", data, 4))
    if max(header.payload_len, header.raw_len) > limit:
        raise Refused("12.5", "payload_len")
    codec = header.flags >> 8 & 0xF  # SPEC 3, flags
    if codec > LZ4:
        raise Refused("12.6", "flags.codec")
    if codec == 0 and header.raw_len != header.payload_len:
        raise Refused("12.7", "raw_len")
    end = header_len * 8 + header.payload_len
    if len(data) < end:
        raise Refused("12.8", "payload_len")
    payload = data[header_len * 8:end]
    return header, lz4_block(payload, header.raw_len) if codec == LZ4 else payload, data[end:]


def lz4_block(block, raw_len):  # SPEC 3.A
    raw, at = bytearray(), 0

    def take(count):
        nonlocal at
        at += count
        if at > len(block):
            raise Refused("12.24", "payload")
        return block[at - count:at]

    def length(nibble):
        total, more = nibble, 255 if nibble == 15 else 0
        while more == 255:
            more = take(1)[0]
            total += more
        return total

    while True:
        token = take(1)[0]
        raw += take(length(token >> 4))
        if at == len(block):
            break
        offset = int.from_bytes(take(2), "little")
        count = 4 + length(token & 15)
        if not 1 <= offset <= len(raw) or len(raw) + count > raw_len:
            raise Refused("12.24", "payload")
        for _ in range(count):  # byte by byte: a copy may reach into what it writes
            raw.append(raw[-offset])
    if len(raw) != raw_len:
        raise Refused("12.24", "payload")
    return bytes(raw)


def decode(header, data):
    """The type's name and fields of a payload."""
    if header.type_id not in MESSAGES:
        raise Refused("12.9", "type_id")
    kind = MESSAGES[header.type_id]
    last_offset, _, last_kind = kind.fields[-1]
    if not last_offset + last_kind.size <= header.root_len <= header.raw_len:
        raise Refused("12.10", "root_len")
    payload, root, values = Payload(data), header.raw_len - header.root_len, {}  # SPEC 5
    for offset, field, inner in kind.fields:
        value = inner.read(payload, root + offset, root, field)
        if value is not ABSENT:
            values[field] = value
    if kind.any_of and not any(field in values for field in kind.any_of):
        raise Refused("12.22", kind.any_of[0])
    for field, holds in kind.bounds:
        if not holds(values):
            raise Refused("12.25", field)
    if header.type_id >= DATA_FIRST:
        key_of(kind, values)
    return kind.name, values


def key_of(kind, values):  # SPEC 14
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-")

    def is_key(key):
        return 1 <= len(key) <= KEY_BYTES_MAX and letters.issuperset(key) and all(key.split("."))

    for field in kind.key:
        if not is_key(str(values[field])):
            raise Refused("12.23", field)
    key = ".".join(str(values[field]) for field in kind.key)
    if not is_key(key):
        raise Refused("12.23", ".".join(kind.key))
    return key


# SPEC 4: without padding, so each field begins where the one before it ends. Guards the typing above.
for declared in MESSAGES.values():
    position = 0
    for declared_offset, declared_name, declared_kind in declared.fields:
        assert declared_offset == position, f"{declared.name}.{declared_name} is not at {position}"
        position += declared_kind.size

# ------------------------------------------------------------------------------------------------------
# Golden files


def difference(read, twin, path):
    """Where what was read differs from the JSON twin, in words, or None."""
    if isinstance(read, Spliced):
        return None if parse_json(read.text) == twin else f"{path}: {read.text} is not {twin}"
    if isinstance(read, dict) and isinstance(twin, dict):
        if read.keys() != twin.keys():
            return f"{path}: the members {sorted(read.keys() ^ twin.keys())} are on one side only"
        found = (difference(read[field], twin[field], f"{path}.{field}") for field in read)
        return next(filter(None, found), None)
    if isinstance(read, list) and isinstance(twin, list) and len(read) == len(twin):
        found = (difference(*pair, f"{path}.{index}") for index, pair in enumerate(zip(read, twin)))
        return next(filter(None, found), None)
    if isinstance(read, Fixed):
        same = twin == Number(read.plain())
    elif isinstance(read, float):
        # The shortest digits that read as this double, in whatever notation.
        same = isinstance(twin, Number) and float(twin.text) == read and digits(twin.text) == digits(repr(read))
    elif isinstance(read, int) and not isinstance(read, bool):
        same = twin == Number(str(read))
    else:
        same = type(read) is type(twin) and read == twin
    return None if same else f"{path}: read {to_json(read)}, the twin has {twin!r}"


def digits(number):
    return number.lower().partition("e")[0].replace(".", "").strip("-0")


def spec_types():
    """Id and name of every type in the summary table of SPEC 5."""
    spec = (Path(__file__).resolve().parent.parent / "SPEC.md").read_text(encoding="utf-8")
    table = spec.split("<!-- generated: types -->")[1].split("<!-- end -->")[0]
    rows = (row.split("|") for row in table.splitlines() if "`" in row)
    return {row[2].strip(" `"): int(row[1]) for row in rows}


def check_golden(path):
    data = path.read_bytes()
    twin_path = path.with_suffix(".json")
    if not twin_path.exists():
        raise Violation(f"{path.name} has no twin {twin_path.name}: cargo test -p tickcast-compat --test golden writes it")
    twin = parse_json(twin_path.read_text(encoding="utf-8"))
    header, payload, rest = split_first(data)
    if rest:
        raise Violation(f"{path.name} has {len(rest)} bytes behind its frame")
    type_name, values = decode(header, payload)
    shown = header._asdict() | {"publish_time": rfc3339(header.publish_time)}  # SPEC 12, golden files
    found = difference({"header": shown, "type": type_name, "data": values}, twin, path.name)
    if found:
        raise Violation(found)
    # SPEC 5: a longer root of a newer peer reads as its prefix.
    longer = header._replace(root_len=header.root_len + 9, raw_len=header.raw_len + 9)
    if decode(longer, payload + b"\x07" * 9) != (type_name, values):
        raise Violation(f"{path.name} reads differently when its root is longer")
    # Whatever happens to a byte, the frame is read or refused; any other exception ends the program.
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        try:
            decode(*split_first(bytes(broken))[:2])
        except Refused:
            pass


def check_packed(path):
    """A compressed frame is the plain one beside it, but for codec and lengths. SPEC 3.A"""
    header, payload, rest = split_first(path.read_bytes())
    plain_header, plain, _ = split_first(path.with_suffix(".plain.bin").read_bytes())
    if rest or header.flags != plain_header.flags | LZ4 << 8 or header.payload_len >= header.raw_len:
        raise Violation(f"{path.name} is not one compressed frame: {header}")
    same = header._replace(flags=plain_header.flags, payload_len=header.raw_len)
    if (same, payload) != (plain_header, plain) or decode(header, payload) != decode(plain_header, plain):
        raise Violation(f"{path.name} is not {path.stem}.plain.bin once decompressed")
    for at in range(HEADER_LEN, HEADER_LEN + header.payload_len):
        broken = bytearray(path.read_bytes())
        broken[at] ^= 0xFF
        try:
            decode(*split_first(bytes(broken))[:2])
        except Refused:
            pass


class Book:
    """An order book. SPEC 16; exact, with a value known by what it is with the fewest digits."""

    def __init__(self):
        self.sides, self.depth = None, 1_024

    @staticmethod
    def fewest(written):
        value = Decimal(written)
        if not value:
            return (0, 0)
        sign, digits, exponent = value.as_tuple()
        mantissa = int("".join(map(str, digits)))
        while mantissa % 10 == 0 and exponent < EXPONENT_MAX:
            mantissa, exponent = mantissa // 10, exponent + 1
        return (-mantissa if sign else mantissa, exponent)

    def apply(self, message):
        if message["kind"] == "snapshot":
            self.sides = {"bids": {}, "asks": {}}
            self.depth = int(message["depth"].text) if "depth" in message else 1_024
        for side, levels in self.sides.items():
            for level in message[side]:
                price, quantity = Decimal(level["price"].text), Decimal(level["quantity"].text)
                levels.pop(price, None)
                if quantity:
                    levels[price] = quantity
            self.sides[side] = dict(self.best(side, self.depth))

    def best(self, side, count):
        return sorted(self.sides[side].items(), reverse=side == "bids")[:count]

    def checksum(self):
        data = b""
        for side in ("bids", "asks"):
            levels = self.best(side, 10)
            data += bytes([len(levels)])
            for value in (value for level in levels for value in level):
                data += struct.pack("<qb", *self.fewest(value))
        return zlib.crc32(data)


def check_books(directory):
    walk, book = parse_json((directory / "walk.json").read_text(encoding="utf-8")), Book()
    for number, said in enumerate(walk["messages"]):
        book.apply(said)
        if book.checksum() != int(said["checksum"].text):
            raise Violation(f"message {number} of walk.json has checksum {said['checksum'].text}, "
                            f"this reader's book {book.checksum()} (SPEC 16)")
    for side in ("bids", "asks"):
        levels = [(Decimal(level["price"].text), Decimal(level["quantity"].text)) for level in walk[side]]
        if levels != book.best(side, 1_024):
            raise Violation(f"the {side} at the end of walk.json are not those of this reader (SPEC 16)")
    return len(walk["messages"])


def golden(directory):
    types = spec_types()
    for type_name, type_id in types.items():
        if MESSAGES.get(type_id, Message("", (), (), (), ())).name != type_name:
            raise Violation(f"SPEC has type {type_id} `{type_name}`, this reader has no decoder for it")
    wanted = {f"{type_name}.{kind}" for type_name in types for kind in ("full", "min")}
    there = {path.stem for path in directory.glob("*.bin")}
    if wanted != there:
        raise Violation(f"frames and types differ: {sorted(wanted ^ there)} are on one side only")
    stray = {path.stem for path in directory.glob("*.json")} - wanted
    if stray:
        raise Violation(f"{sorted(stray)} have a twin and no frame")
    for stem in sorted(wanted):
        check_golden(directory / f"{stem}.bin")
    packed = sorted(path for path in (directory / "lz4").glob("*.bin") if not path.stem.endswith(".plain"))
    for path in packed:
        check_packed(path)
    refused = 0
    listing = (directory / "corrupt" / "LIST.txt").read_text(encoding="utf-8")
    for line in listing.splitlines():
        if line.startswith("#"):
            continue
        file, rule, code, field = line.replace(":", "").split()[:4]
        try:
            decode(*split_first((directory / "corrupt" / file).read_bytes())[:2])
        except Refused as refusal:
            if (refusal.rule, RULES[refusal.rule], refusal.field) != (rule, code, field):
                raise Violation(f"{file} breaks {rule} {code} {field}, this reader says {refusal}") from None
            refused += 1
        else:
            raise Violation(f"{file} breaks rule {rule} of SPEC 12 and was read")
    books = check_books(directory / "book")
    print(f"{len(wanted)} golden frames read and {len(packed)} compressed ones, {refused} corrupt frames refused, "
          f"{books} messages of a book applied")


# ------------------------------------------------------------------------------------------------------
# A live server

def encode(type_id, *fields):
    """A control frame: SPEC 3, with the root at the end of the payload (SPEC 5). Text is (str,), numbers
    are (layout, value)."""
    root_len = sum(8 if isinstance(field, str) else struct.calcsize("<" + field[0]) for field in fields)
    texts = [field.encode() for field in fields if isinstance(field, str)]
    outside, root = b"".join(raw for raw in texts if len(raw) > 8), b""
    start = 0
    for field in fields:
        if not isinstance(field, str):
            root += struct.pack("<" + field[0], field[1])
            continue
        raw = field.encode()
        if len(raw) <= 8:  # SPEC 4.2, inline
            root += raw.ljust(8, b"\xff")
        else:  # SPEC 4.2, out of line
            word = (len(raw) & 0x3F) | 0x80 | ((len(raw) & ~0x3F) << 2)
            root += struct.pack("<Ii", word, start - len(outside) - len(root))
            start += len(raw)
    size = len(outside) + root_len
    return struct.pack("<HBBHHHHIQQII", 0x4354, 2, 5, type_id, 1, 0, root_len, 0, 0, 0, size, size) + outside + root


class WebSocket:
    """As much of RFC 6455 as SPEC 2 asks for."""

    def __init__(self, url):
        parts = urlsplit(url)
        if parts.scheme != "ws":
            raise Violation(f"{url} is not a ws:// address")
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=10)
        self.pending = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Protocol: tickcast.v2\r\n\r\n").encode())  # SPEC 2
        while b"\r\n\r\n" not in self.pending:
            self.receive()
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        status, *lines = head.decode("latin-1").split("\r\n")
        if status.split(" ")[1] != "101":
            raise Violation(f"the upgrade was answered with `{status}`")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
        expected = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise Violation("the upgrade's Sec-WebSocket-Accept does not fit the key")
        if headers.get("sec-websocket-protocol") != "tickcast.v2":
            raise Violation(f"the server chose subprotocol {headers.get('sec-websocket-protocol')!r}")

    def receive(self):
        try:
            more = self.socket.recv(65_536)
        except TimeoutError:
            raise Violation(f"nothing came for {self.socket.gettimeout():g} s, not even a heartbeat") from None
        if not more:
            raise Violation("the server closed the connection without a close frame")
        self.pending += more

    def take(self, count):
        while len(self.pending) < count:
            self.receive()
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def send(self, opcode, payload):
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
        else:
            head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
        mask = os.urandom(4)  # SPEC 2: a client masks
        self.socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))

    def message(self):
        """The next binary message; pings are answered on the way."""
        while True:
            first, second = self.take(2)
            if second & 0x80:
                raise Violation("the server masked a frame (SPEC 2)")
            if first & 0x70 or not first & 0x80:
                raise Violation("the server set a reserved bit or sent a fragment (SPEC 2)")
            length = second & 0x7F
            if length == 126:
                length = struct.unpack(">H", self.take(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.take(8))[0]
            payload, opcode = self.take(length), first & 0x0F
            if opcode == 2:
                return payload
            if opcode == 9:
                self.send(10, payload)
            elif opcode == 8:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
                raise Violation(f"the server closed with {code} `{payload[2:].decode(errors='replace')}`")
            elif opcode != 10:
                raise Violation(f"the server sent opcode {opcode}: in tickcast.v2 data is binary (SPEC 2)")


COUNTS = ("conflated", "gapped", "filtered")


class Stream:
    """The account of one stream: SPEC 6.C."""

    def __init__(self, binding):
        self.topic, self.critical = binding["topic"], binding["class"] == "critical"
        self.first = self.next = binding["next_sequence"]
        self.known_at = 0  # the newest sequence when its state was told last, SPEC 6.G
        self.received, self.counts = 0, dict.fromkeys(COUNTS, 0)

    @property
    def told(self):
        return sum(self.counts.values())

    def settle(self, through, counts):
        for name in COUNTS:
            self.counts[name] += counts[name]
        self.next = through + 1
        self.balance()

    def balance(self):
        if self.received + self.told != self.next - self.first:
            raise Violation(
                f"{self.topic}: {self.received} received and {self.told} told are not the "
                f"{self.next - self.first} events from {self.first} to {self.next - 1} (SPEC 6.C)")


class Follower:
    """What SPEC 6 lets a server say to a subscriber, and in which order."""

    def __init__(self, url, topic_filter, predicate):
        self.connection = WebSocket(url)
        self.filter, self.predicate, self.streams, self.compared = topic_filter, predicate, {}, 0
        self.subscription, self.bracket, self.bracket_left = None, None, 0
        self.welcomed = False
        # SPEC 6.1: role 1 is subscriber
        self.say(1, ("B", 1), "spec-reader", "spec_reader.py", ("B", LZ4))

    def say(self, type_id, *fields):
        self.connection.send(2, encode(type_id, *fields))

    def events(self):
        """Every data message, checked, as (header, topic, type, fields)."""
        while True:
            data = self.connection.message()
            if not data:
                raise Violation("the server sent an empty message (SPEC 2)")
            while data:  # SPEC 2: one or more whole frames
                header, payload, data = split_first(data)
                if header.type_id not in MESSAGES:
                    if header.type_id >= DATA_FIRST:
                        self.account(header)  # SPEC 5: skipped, and received all the same
                    continue
                type_name, values = decode(header, payload)
                if header.type_id >= DATA_FIRST:
                    yield self.data(header, type_name, values)
                else:
                    self.control(header, type_name, values)

    def control(self, header, type_name, values):
        if header.stream or header.sequence or header.publish_time:
            raise Violation(f"`{type_name}` has a stream, sequence or time (SPEC 6)")
        if not self.welcomed and type_name not in ("welcome", "error"):
            raise Violation(f"`{type_name}` came before `welcome` (SPEC 6.A)")
        answer = getattr(self, f"on_{type_name}", None)
        if answer is None:
            raise Violation(f"a server does not say `{type_name}` to a subscriber (SPEC 6.A)")
        answer(values)

    def on_welcome(self, welcome):
        self.welcomed = True
        if welcome["codecs"] & ~LZ4:
            raise Violation(f"the server would use codecs {welcome['codecs']}, of which not all were offered (SPEC 6.1)")
        self.connection.socket.settimeout(3 * welcome["heartbeat_ms"] / 1000)  # SPEC 6.B, stale
        # SPEC 6.3: start 0 is live, policy 0 is default, a rate of 0 is no bound
        self.say(3, ("Q", 1), self.filter, ("B", 0), ("B", 0), self.predicate, ("d", 0.0))

    def on_error(self, error):
        raise Violation(f"the server answered with error {error['code']}: {error['message']}")

    def on_acknowledge(self, answer):
        if (answer["request"], answer["status"]) != (1, "subscribed"):
            raise Violation(f"the subscribe was answered with {answer} (SPEC 6.A)")
        self.subscription = answer["subscription"]

    def on_bind(self, bind):
        self.ours(bind, "bind")
        for binding in bind["bindings"]:
            known = self.streams.get(binding["stream"])
            if known and known.topic != binding["topic"]:
                raise Violation(f"stream {binding['stream']} was {known.topic} and is {binding['topic']} (SPEC 6.B)")
            if not known:
                self.streams[binding["stream"]] = Stream(binding)

    def on_begin(self, begin):
        self.ours(begin, "begin")
        self.bracket, self.bracket_left = begin["bracket"], begin["events"]

    def on_end(self, end):
        self.ours(end, "end")
        if self.bracket != end["bracket"] or self.bracket_left:
            raise Violation(f"`end` of {end['bracket']} with {self.bracket_left} events to come (SPEC 6.B)")
        self.bracket = None

    def on_notice(self, notice):
        told = notice["conflated"] + notice["gapped"] + notice["filtered"]
        if notice["kind"] == "counts":  # SPEC 6.C: what was told, as sums
            self.ours(notice, "notice")
            if notice["stream"] or notice["from"] or notice["through"]:
                raise Violation(f"{notice} is about one stream, and counts are about all (SPEC 6.C)")
            for name in COUNTS:
                own = sum(stream.counts[name] for stream in self.streams.values())
                if notice[name] != own:
                    raise Violation(f"the server says {notice[name]} were {name}, it told of {own} (SPEC 6.C)")
            self.compared += 1
        elif notice["kind"] in ("loss", "upstream_gap"):
            if notice["subscription"]:
                self.ours(notice, "notice")
            stream = self.stream(notice["stream"], "a notice")
            if notice["through"] - notice["from"] + 1 != told:
                raise Violation(f"{stream.topic}: {notice} does not add up (SPEC 6.C)")
            if notice["through"] < stream.next:
                return
            known = stream.next - notice["from"]
            if not 0 <= known <= notice["filtered"]:
                raise Violation(f"{stream.topic}: {notice} does not follow {stream.next - 1} (SPEC 6.C)")
            if notice["kind"] == "upstream_gap" and (notice["gapped"], notice["reason"]) != (told, "upstream"):
                raise Violation(f"{stream.topic}: {notice} is not all gap, or not the source's (SPEC 6.C)")
            stream.settle(notice["through"], {**notice, "filtered": notice["filtered"] - known})

    def on_heartbeat(self, heartbeat):
        for head in heartbeat["heads"]:
            stream = self.stream(head["stream"], "a heartbeat")
            if head["sequence"] < stream.next - 1:
                raise Violation(f"{stream.topic}: head {head['sequence']} is behind {stream.next - 1} (SPEC 6.C)")
            if head["through"] >= stream.next:
                if not self.predicate:
                    raise Violation(f"{stream.topic}: {head} was filtered, and nothing filters (SPEC 6.C)")
                filtered = head["through"] - stream.next + 1
                stream.settle(head["through"], {"conflated": 0, "gapped": 0, "filtered": filtered})

    def on_stream_states(self, told):
        for status in told["states"]:
            stream = self.stream(status["stream"], "a state")
            if status["last_sequence"] < stream.known_at:
                raise Violation(f"{stream.topic}: {status} is older than what was told before (SPEC 6.G)")
            stream.known_at = status["last_sequence"]

    def on_pong(self, pong):
        pass

    def on_ping(self, ping):
        pass

    def ours(self, values, what):
        if self.subscription is None or values["subscription"] != self.subscription:
            raise Violation(f"`{what}` is about subscription {values['subscription']}, not {self.subscription} (SPEC 6.B)")

    def stream(self, number, who):
        if number not in self.streams:
            raise Violation(f"{who} is about stream {number}, which was not bound (SPEC 6.B)")
        return self.streams[number]

    def account(self, header):
        stream = self.stream(header.stream, "a data frame")
        if self.bracket:
            self.bracket_left -= 1
        if self.bracket == "snapshot":
            if header.sequence >= stream.first:
                raise Violation(f"{stream.topic}: snapshot has {header.sequence}, live begins at {stream.first} (SPEC 6.B)")
            return stream
        if header.sequence != stream.next:
            raise Violation(f"{stream.topic}: {header.sequence} came where {stream.next} was due (SPEC 6.C)")
        stream.received += 1
        stream.next += 1
        stream.balance()
        return stream

    def data(self, header, type_name, values):
        stream = self.account(header)
        topic = f"{type_name}.{key_of(MESSAGES[header.type_id], values)}"
        if topic != stream.topic:
            raise Violation(f"stream {header.stream} is {stream.topic}, the message is about {topic} (SPEC 6.D)")
        if bool(header.flags & CRITICAL) != stream.critical:
            raise Violation(f"{topic}: flags {header.flags} do not fit the stream's class (SPEC 3)")
        return header, topic, type_name, values


def follow(url, topic_filter, count, predicate=""):
    follower = Follower(url, topic_filter, predicate)
    for number, (header, topic, type_name, values) in enumerate(follower.events(), 1):
        print(to_json({"topic": topic, "stream": header.stream, "sequence": header.sequence,
                       "publish_time": rfc3339(header.publish_time), "type": type_name, "data": values}), flush=True)
        if number == count:
            break
    streams = follower.streams.values()
    print(f"{sum(stream.received for stream in streams)} received and {sum(stream.told for stream in streams)} told "
          f"on {len(streams)} streams, {sum(stream.counts['filtered'] for stream in streams)} of them filtered, "
          f"{follower.compared} sums compared", file=sys.stderr)
    follower.connection.send(8, struct.pack(">H", 1000))


def main(arguments):
    try:
        if len(arguments) == 2 and arguments[0] == "golden":
            golden(Path(arguments[1]))
        elif (len(arguments) in (4, 5) and arguments[0] == "follow" and arguments[3].isdigit()
              and int(arguments[3]) > 0):
            follow(arguments[1], arguments[2], int(arguments[3]), *arguments[4:])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (Violation, Refused, OSError) as fault:
        print(f"spec_reader: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
