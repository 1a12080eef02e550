//! Frames that every reader must refuse, each by the rule of SPEC 12 that it breaks.
//!
//! They are made from sound frames by one change each and kept in `golden/corrupt`, with a list of which
//! breaks which rule, so that readers in other languages refuse the same ones for the same reason.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use support::{golden, stamped, verify};
use tickcast_protocol::decimal::DIGITS_MAX;
use tickcast_protocol::field::{Blob, Entry, Json, LIST_LEN_MAX, Map, Scalar, TEXT_BYTES_MAX};
use tickcast_protocol::frame::{self, Frame, HEADER_LEN, Header, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Event, Extension, MarketData, PartialBook, Signal, SystemHealth};
use tickcast_protocol::registry::{self, TypeInfo};
use tickcast_protocol::{DecodeError, Message, codec};

/// A broken frame, and the rule of SPEC 12 it breaks.
struct Case {
    name: &'static str,
    rule: &'static str,
    /// The field at fault where the rule leaves it open.
    field: Option<&'static str>,
    words: &'static str,
    bytes: Vec<u8>,
}

fn case(name: &'static str, rule: &'static str, words: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, rule, field: None, words, bytes }
}

fn at(
    field: &'static str,
    name: &'static str,
    rule: &'static str,
    words: &'static str,
    bytes: Vec<u8>,
) -> Case {
    Case { field: Some(field), ..case(name, rule, words, bytes) }
}

fn info(name: &str) -> &'static TypeInfo {
    registry::types().iter().find(|info| info.name == name).expect("a type of the registry")
}

/// The full sample of a type with the bytes at one place replaced.
fn patched(name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = stamped(&Message::sample(info(name), true));
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Where a root field of the full sample lies in its frame.
fn field(name: &str, field: &str) -> usize {
    let info = info(name);
    let frame = stamped(&Message::sample(info, true));
    let index = info.record.position(field).expect("a field of the type");
    frame.len() - info.record.size() + info.record.fields[index].offset
}

/// The first element of a list or map field of the full sample.
fn first_element(name: &str, list: &str) -> usize {
    let at = field(name, list);
    let frame = stamped(&Message::sample(info(name), true));
    let offset = i32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    at.checked_add_signed(offset as isize).expect("inside the frame")
}

/// The full sample of a type, changed before it is encoded.
fn changed<T>(name: &str, unwrap: fn(Message) -> Option<T>, change: impl FnOnce(&mut T)) -> Vec<u8>
where
    Message: From<T>,
{
    let mut message = unwrap(Message::sample(info(name), true)).expect("the type asked for");
    change(&mut message);
    frame::encode(&message.into())
}

macro_rules! change {
    ($name:literal, $variant:ident, $change:expr) => {
        changed::<$variant>(
            $name,
            |message| match message {
                Message::$variant(message) => Some(message),
                _ => None,
            },
            $change,
        )
    };
}

fn header_cases() -> Vec<Case> {
    let good = stamped(&Message::sample(info("signal"), true));
    let root_len = info("signal").record.size() as u16;
    let payload_len = (good.len() - HEADER_LEN) as u32;
    let lengths = |payload: u32, raw: u32| {
        let mut bytes = good.clone();
        bytes[32..36].copy_from_slice(&payload.to_le_bytes());
        bytes[36..40].copy_from_slice(&raw.to_le_bytes());
        bytes
    };
    let over = PAYLOAD_BYTES_MAX as u32 + 1;
    vec![
        case("header_cut", "12.1", "39 of 40 bytes", good[..39].to_vec()),
        case("header_long", "12.1", "a header of 2040 bytes", patched("signal", 3, &[255])),
        case("magic", "12.2", "begins with `tC`", patched("signal", 0, b"t")),
        case("protocol_old", "12.3", "protocol 1", patched("signal", 2, &[1])),
        case("protocol_new", "12.3", "protocol 3", patched("signal", 2, &[3])),
        case("header_short", "12.4", "a header of 32 bytes", patched("signal", 3, &[4])),
        case("payload_over", "12.5", "a byte over 1 MiB", lengths(over, over)),
        case("raw_over", "12.5", "4 GiB once decoded", lengths(payload_len, u32::MAX)),
        case("codec_2", "12.6", "codec 2", patched("signal", 9, &[2])),
        case("codec_15", "12.6", "codec 15", patched("signal", 9, &[15])),
        case("raw_more", "12.7", "raw_len one more than payload_len", lengths(payload_len, payload_len + 1)),
        case("raw_zero", "12.7", "raw_len zero", lengths(payload_len, 0)),
        case("payload_cut", "12.8", "the last byte missing", good[..good.len() - 1].to_vec()),
        case(
            "payload_beyond",
            "12.8",
            "lengths one more than the bytes",
            lengths(payload_len + 1, payload_len + 1),
        ),
        case("type_zero", "12.9", "type 0", patched("signal", 4, &[0, 0])),
        case("type_between", "12.9", "type 99", patched("signal", 4, &[99, 0])),
        case(
            "root_small",
            "12.10",
            "root one byte short",
            patched("signal", 10, &(root_len - 1).to_le_bytes()),
        ),
        case("root_zero", "12.10", "root of no bytes", patched("signal", 10, &[0, 0])),
        case(
            "root_beyond",
            "12.10",
            "root larger than the payload",
            patched("signal", 10, &(payload_len as u16 + 1).to_le_bytes()),
        ),
        case("payload_empty", "12.10", "no payload at all", lengths(0, 0)[..HEADER_LEN].to_vec()),
    ]
}

/// A frame whose payload is this LZ4 block.
fn lz4(block: &[u8], raw_len: usize) -> Vec<u8> {
    let header = Header {
        payload_len: block.len() as u32,
        raw_len: raw_len as u32,
        ..frame::payload(&Message::sample(info("signal"), true)).1.with_codec(codec::LZ4)
    };
    [&header.to_bytes()[..], block].concat()
}

/// Every way for a block of SPEC 3.A to be broken. None gets as far as the type's own checks.
fn lz4_cases() -> Vec<Case> {
    // Literals `abcd`, eight bytes from four back, literals `e`: 13 bytes.
    const GOOD: [u8; 9] = [0x44, b'a', b'b', b'c', b'd', 4, 0, 0x10, b'e'];
    let changed = |at: usize, byte: u8| {
        let mut block = GOOD;
        block[at] = byte;
        block
    };
    let over = PAYLOAD_BYTES_MAX + 1;
    let plain = frame::payload(&Message::sample(info("signal"), true)).0;
    vec![
        case("lz4_raw_over", "12.5", "LZ4 of a byte over 1 MiB", lz4(&GOOD, over)),
        case("lz4_payload_cut", "12.8", "the last byte of an LZ4 payload missing", {
            let mut frame = lz4(&GOOD, 13);
            frame.pop();
            frame
        }),
        case("lz4_plain", "12.24", "a plain payload that says it is LZ4", lz4(&plain, plain.len())),
        case("lz4_empty", "12.24", "no block at all", lz4(&[], 0)),
        case("lz4_cut", "12.24", "a block without its last byte", lz4(&GOOD[..8], 13)),
        case("lz4_ends_in_copy", "12.24", "a block that ends with a copy", lz4(&GOOD[..7], 12)),
        case("lz4_offset_cut", "12.24", "a block that ends within an offset", lz4(&GOOD[..6], 12)),
        case("lz4_length_cut", "12.24", "a block that ends within a length", lz4(&[0xF0, 255, 255], 600)),
        case("lz4_raw_more", "12.24", "raw_len one more than the block makes", lz4(&GOOD, 14)),
        case("lz4_raw_less", "12.24", "raw_len one less than the block makes", lz4(&GOOD, 12)),
        case("lz4_raw_zero", "12.24", "raw_len zero", lz4(&GOOD, 0)),
        case("lz4_offset_zero", "12.24", "offset zero", lz4(&changed(5, 0), 13)),
        case("lz4_offset_before", "12.24", "an offset to before the payload", lz4(&changed(5, 5), 13)),
        case("lz4_literals_beyond", "12.24", "more literals than there are", lz4(&changed(7, 0x20), 14)),
        case(
            "lz4_copy_huge",
            "12.24",
            "a copy of 260,000 bytes into 13",
            lz4(&[&[0x4F, b'a', b'b', b'c', b'd', 4, 0][..], &[255; 1_020], &[0, 0x10, b'e']].concat(), 13),
        ),
    ]
}

fn structure_cases() -> Vec<Case> {
    let symbol = field("signal", "symbol");
    let tags = field("event", "tags");
    let results = first_element("analytics_update", "results");
    // The value of an entry of the sample map; an entry has 17 bytes, 8 of them for the key (SPEC 4.9).
    let scalar = |index: usize| results + index * 17 + 8;
    let strategy = field("signal", "strategy_id");
    let same_place = {
        // The second text of the root is made to point at the first one's bytes.
        let good = stamped(&Message::sample(info("breach_alert"), true));
        let (first, second) = (field("breach_alert", "portfolio_id"), field("breach_alert", "breach_type"));
        let offset = i32::from_le_bytes(good[first + 4..first + 8].try_into().expect("four bytes"));
        let mut frame = patched("breach_alert", second, &good[first..first + 4]);
        frame[second + 4..second + 8].copy_from_slice(&(offset - (second - first) as i32).to_le_bytes());
        frame
    };
    vec![
        case(
            "text_before",
            "12.11",
            "text begins a mile before the payload",
            patched("signal", symbol + 4, &(-5_280i32).to_le_bytes()),
        ),
        case(
            "text_header",
            "12.11",
            "text begins in the header",
            patched("signal", symbol + 4, &(-((symbol - HEADER_LEN) as i32) - 1).to_le_bytes()),
        ),
        case(
            "text_itself",
            "12.11",
            "text begins at its own field",
            patched("signal", symbol + 4, &0i32.to_le_bytes()),
        ),
        case(
            "text_beyond",
            "12.11",
            "text begins behind the payload",
            patched("signal", symbol + 4, &i32::MAX.to_le_bytes()),
        ),
        case(
            "text_long_beyond",
            "12.11",
            "text of 1 GiB",
            patched("signal", symbol, &[0xBF, 0xFF, 0xFF, 0xFF]),
        ),
        case(
            "text_into_root",
            "12.11",
            "text reaches into the root",
            patched("signal", symbol, &[0x80 | 0x3F, 0, 0, 0]),
        ),
        case(
            "list_before",
            "12.11",
            "list begins before the payload",
            patched("event", tags, &i32::MIN.to_le_bytes()),
        ),
        case(
            "list_beyond",
            "12.11",
            "list begins behind the payload",
            patched("event", tags, &i32::MAX.to_le_bytes()),
        ),
        case(
            "list_itself",
            "12.11",
            "list begins at its own field",
            patched("event", tags, &0i32.to_le_bytes()),
        ),
        case(
            "list_huge",
            "12.11",
            "list of 4,294,967,295 texts",
            patched("event", tags + 4, &u32::MAX.to_le_bytes()),
        ),
        case(
            "list_empty_beyond",
            "12.11",
            "empty list that begins behind the payload",
            patched("event", tags, &[0xFF, 0xFF, 0xFF, 0x7F, 0, 0, 0, 0]),
        ),
        case(
            "map_huge",
            "12.11",
            "map of 16,777,216 entries",
            patched(
                "analytics_update",
                field("analytics_update", "results") + 4,
                &(1u32 << 24).to_le_bytes(),
            ),
        ),
        case(
            "floats_huge",
            "12.11",
            "list of numbers in a map, of 1,000,000",
            patched("analytics_update", scalar(5) + 5, &1_000_000u32.to_le_bytes()),
        ),
        case(
            "bytes_huge",
            "12.11",
            "1 GiB of bytes",
            patched("extension", field("extension", "bytes") + 5, &(1u32 << 30).to_le_bytes()),
        ),
        case("text_shared", "12.12", "two texts at the same place", same_place),
        case(
            "text_short",
            "12.13",
            "out-of-line text of 8 bytes",
            patched("signal", symbol, &[0x88, 0, 0, 0]),
        ),
        case(
            "text_none",
            "12.13",
            "out-of-line text of no bytes",
            patched("signal", symbol, &[0x80, 0, 0, 0]),
        ),
        case(
            "utf8_inline",
            "12.14",
            "inline text that is not UTF-8",
            patched("signal", symbol, &[0xC3, 0x28, 255, 255, 255, 255, 255, 255]),
        ),
        case(
            "utf8_cut",
            "12.14",
            "inline text that ends within a character",
            patched("signal", symbol, &[0x41, 0xE2, 0x82, 255, 255, 255, 255, 255]),
        ),
        case(
            "utf8_surrogate",
            "12.14",
            "inline text with a surrogate",
            patched("signal", symbol, &[0xED, 0xA0, 0x80, 255, 255, 255, 255, 255]),
        ),
        case(
            "utf8_long",
            "12.14",
            "out-of-line text that is not UTF-8",
            patched("signal", HEADER_LEN, &[0xC0]),
        ),
        case("bool_2", "12.15", "bool that is 2", patched("extension", field("extension", "critical"), &[2])),
        case("optional_2", "12.15", "optional whose tag is 2", patched("signal", strategy, &[2])),
        case("scalar_9", "12.15", "scalar whose tag is 9", patched("analytics_update", scalar(1), &[9])),
        case(
            "scalar_bool_2",
            "12.15",
            "bool in a map that is 2",
            patched("analytics_update", scalar(3) + 1, &[2]),
        ),
    ]
}

fn content_cases() -> Vec<Case> {
    let price = field("signal", "price");
    let confidence = field("signal", "confidence");
    let mantissa = |value: i64| patched("signal", price, &value.to_le_bytes());
    let exponent = |value: i8| patched("signal", price + 8, &value.to_le_bytes());
    let json =
        |text: &str| change!("extension", Extension, |message| message.json = Some(Json(text.to_owned())));
    let key = |symbol: &str| change!("signal", Signal, |message| message.symbol = symbol.to_owned());
    let map = |entries: Vec<Entry>| change!("event", Event, |message| message.details = Some(Map(entries)));
    let entry = |value| Entry { key: "k".to_owned(), value };
    let no_quote = change!("market_data", MarketData, |message| {
        (message.price, message.bid, message.ask) = (None, None, None);
    });
    let no_content =
        change!("extension", Extension, |message| (message.json, message.bytes) = (None, None::<Blob>));
    let infinite = change!("system_health", SystemHealth, |message| message.uptime_s = Some(f64::INFINITY));
    let long_text = change!("signal", Signal, |message| {
        message.strategy_id = Some("s".repeat(TEXT_BYTES_MAX + 1));
    });
    let long_list = change!("event", Event, |message| message.tags = vec![String::new(); LIST_LEN_MAX + 1]);
    let depth = |depth: u32| change!("partial_book", PartialBook, |message| message.depth = depth);
    let one_bid = change!("partial_book", PartialBook, |message| {
        message.depth = 1;
        message.bids.truncate(1);
    });
    let too_many = 10i64.pow(DIGITS_MAX);
    vec![
        at("strategy_id", "text_over", "12.16", "text of 16,385 bytes", long_text),
        at("tags", "list_over", "12.17", "list of 1,025 elements", long_list),
        at(
            "details",
            "map_over",
            "12.17",
            "map of 1,025 entries",
            map(vec![entry(Scalar::Null); LIST_LEN_MAX + 1]),
        ),
        at(
            "details.k",
            "floats_over",
            "12.17",
            "list of 1,025 numbers in a map",
            map(vec![entry(Scalar::Floats(vec![0.5; LIST_LEN_MAX + 1]))]),
        ),
        at(
            "confidence",
            "float_nan",
            "12.18",
            "not a number",
            patched("signal", confidence, &f64::NAN.to_le_bytes()),
        ),
        at("uptime_s", "float_infinite", "12.18", "infinity in an optional", infinite),
        at(
            "details.k",
            "map_float_nan",
            "12.18",
            "not a number, in a map",
            map(vec![entry(Scalar::Float(f64::NAN))]),
        ),
        at(
            "details.k.1",
            "floats_nan",
            "12.18",
            "not a number, in a list in a map",
            map(vec![entry(Scalar::Floats(vec![1.5, f64::NAN]))]),
        ),
        at("price", "decimal_digits", "12.19", "mantissa of 19 digits", mantissa(too_many)),
        at("price", "decimal_negative", "12.19", "negative mantissa of 19 digits", mantissa(-too_many)),
        at("price", "decimal_least", "12.19", "the least i64 as mantissa", mantissa(i64::MIN)),
        at("price", "exponent_65", "12.20", "exponent 65", exponent(65)),
        at("price", "exponent_least", "12.20", "exponent -128", exponent(-128)),
        at("json", "json_not", "12.21", "not JSON", json("{'a':1}")),
        at("json", "json_open", "12.21", "an array that does not end", json("[1,2")),
        at("json", "json_two", "12.21", "two values", json("{} {}")),
        at("json", "json_empty", "12.21", "no value", json("")),
        at("json", "json_comma", "12.21", "a comma too many", json("[1,]")),
        at("json", "json_nan", "12.21", "NaN", json("[NaN]")),
        at("json", "json_lines", "12.21", "two lines", json("{\n}")),
        at("json", "json_deep", "12.21", "33 arrays deep", json(&("[".repeat(33) + &"]".repeat(33)))),
        at(
            "details.k",
            "map_json",
            "12.21",
            "not JSON, in a map",
            map(vec![entry(Scalar::Json("{".to_owned()))]),
        ),
        at("price", "group_quote", "12.22", "market_data without price, bid and ask", no_quote),
        at("json", "group_content", "12.22", "extension without json and bytes", no_content),
        at("symbol", "key_space", "12.23", "a space in the key", key("BTC USDT")),
        at("symbol", "key_star", "12.23", "a wildcard in the key", key("BTC*")),
        at("symbol", "key_empty", "12.23", "an empty key", key("")),
        at("symbol", "key_segment", "12.23", "an empty segment in the key", key("BTC..USDT")),
        at("symbol", "key_letter", "12.23", "a letter outside ASCII in the key", key("Ä")),
        at("symbol", "key_long", "12.23", "a key of 113 bytes", key(&"k".repeat(113))),
        at("depth", "depth_zero", "12.25", "a view of no levels", depth(0)),
        at("depth", "depth_101", "12.25", "a view of 101 levels", depth(101)),
        at("bids", "depth_bids", "12.25", "two bids in a view of one level", depth(1)),
        at("asks", "depth_asks", "12.25", "two asks in a view of one level", one_bid),
    ]
}

/// Code and field of each rule, from the table of SPEC 12.
fn rules() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let rows = include_str!("../SPEC.md").lines().filter(|line| line.starts_with("| 12."));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim_matches([' ', '`'])).collect::<Vec<_>>());
    cells.map(|cells| (cells[1], (cells[3], cells[4]))).collect()
}

fn cases() -> Vec<Case> {
    [header_cases(), lz4_cases(), structure_cases(), content_cases()].into_iter().flatten().collect()
}

fn refusal(bytes: &[u8]) -> Option<DecodeError> {
    let read = |bytes| {
        let (frame, _) = Frame::split_first(bytes, PAYLOAD_BYTES_MAX)?;
        let (header, payload) = frame.decompress(&mut BytesMut::new())?;
        let frame = Frame { header, payload: &payload };
        let view = frame.view()?;
        view.write_key(&mut String::new()).map_err(DecodeError::from)
    };
    read(bytes).err()
}

#[test]
fn every_corrupt_frame_is_refused_by_its_rule() {
    let rules = rules();
    let mut list = String::from("# file: rule of SPEC 12, error code, field (what is wrong)\n");
    let mut files = Vec::new();
    for Case { name, rule, field, words, bytes } in cases() {
        let (code, rule_field) = rules[rule];
        let field = field.unwrap_or(rule_field);
        let error = refusal(&bytes).unwrap_or_else(|| panic!("{name} was accepted"));
        assert_eq!((error.code().name(), error.field()), (code, field), "{name}: {error}");
        list.push_str(&format!("{name}.bin: {rule} {code} {field} ({words})\n"));
        files.push((format!("{name}.bin"), bytes));
    }
    files.push(("LIST.txt".to_owned(), list.into_bytes()));
    verify(&golden().join("corrupt"), &files);
}

#[test]
fn every_rule_of_the_specification_is_broken_by_some_file() {
    let broken: BTreeSet<&str> = cases().iter().map(|case| case.rule).collect();
    assert_eq!(rules().into_keys().collect::<BTreeSet<_>>(), broken);
}
