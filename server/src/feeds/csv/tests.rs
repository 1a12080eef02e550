//! Files as people write them, and the errors they read.

use std::cell::Cell;

use proptest::prelude::*;
use tickcast_protocol::frame;
use tickcast_protocol::message::View;

use super::*;

const TRADES: &str = "ts_event_ns,symbol,venue,trade_id,price,size,aggressor_side\n";
const QUOTES: &str = "ts_event_ns,symbol,venue,bid,bid_size,ask,ask_size\n";

fn open(text: impl AsRef<[u8]>) -> Result<Reader<io::Cursor<Vec<u8>>>, OpenError> {
    Reader::from_reader("ticks.csv", io::Cursor::new(text.as_ref().to_vec()))
}

fn rows(text: impl AsRef<[u8]>) -> Vec<Result<Row, RowError>> {
    open(text).unwrap().collect()
}

fn row(text: impl AsRef<[u8]>) -> Row {
    let mut rows = rows(text);
    assert_eq!(rows.len(), 1);
    rows.remove(0).unwrap()
}

fn row_error(text: impl AsRef<[u8]>) -> String {
    let found = rows(text).into_iter().find_map(Result::err).expect("an error");
    assert!(found.value.chars().count() <= QUOTED_CHARS_MAX + 1, "{}", found.value);
    found.to_string()
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn trade(row: Row) -> PublicTrade {
    match row.message {
        Message::PublicTrade(trade) => trade,
        other => panic!("{other:?}"),
    }
}

fn quote(row: Row) -> MarketData {
    match row.message {
        Message::MarketData(quote) => quote,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trades_are_read() {
    let found = row(format!("{TRADES}1610064000278000000,BTCUSDT,BINANCE,553287559,39432.48,2e-06,sell\n"));
    assert_eq!((found.ts, found.line), (1_610_064_000_278_000_000, 2));
    let trade = trade(found);
    assert_eq!(trade.price, decimal("39432.48"));
    assert_eq!((trade.size.mantissa(), trade.size.exponent()), (2, -6));
    assert_eq!((trade.side, trade.trade_id.as_deref()), (Some(Side::SELL), Some("553287559")));
    assert_eq!((trade.symbol.as_str(), trade.venue.as_deref()), ("BTCUSDT", Some("BINANCE")));
}

#[test]
fn quotes_are_read_and_empty_is_absent() {
    let found = quote(row(format!("{QUOTES}5,EURUSD,,1.121200,,1.121720,0.00031099999999999997\n")));
    assert_eq!(found.bid.unwrap().to_string(), "1.121200");
    assert_eq!(found.ask_size, Some(decimal("0.00031099999999999997")));
    assert_eq!((found.bid_size, found.venue, found.price), (None, None, None));
    // One side of a quote is a quote.
    assert_eq!(quote(row(format!("{QUOTES}5,EURUSD,,,,1.1,\n"))).bid, None);
}

#[test]
fn columns_are_found_in_any_order_and_case() {
    let mut reader = open(" SIZE ,flags,symbol,Price,TS_EVENT_NS,seq\n7,x,AAPL,-37.63,9,1\n").unwrap();
    assert_eq!(reader.ignored_columns(), ["flags", "seq"]);
    let found = reader.next().unwrap().unwrap();
    assert_eq!(found.ts, 9);
    let trade = trade(found);
    assert_eq!((trade.price, trade.size, trade.side), (decimal("-37.63"), decimal("7"), None));
}

#[test]
fn quotes_may_carry_the_last_trade() {
    let found = quote(row("ts_event_ns,symbol,bid,ask,price,size\n1,A,1,3,2,10\n"));
    assert_eq!((found.price, found.volume), (Some(decimal("2")), Some(decimal("10"))));
}

#[test]
fn files_of_other_editors_read_the_same() {
    let plain = format!("{TRADES}1,AAPL,\"N\",\"a,b\",1.0,2,buy\n3,AAPL,N,c,1.0,2,\n");
    let expected = rows(&plain);
    assert_eq!(expected.len(), 2);
    for changed in [
        plain.replace('\n', "\r\n"),
        format!("\u{feff}{plain}"),
        format!("\u{feff}{}", plain.replace('\n', "\r\n")),
        plain.trim_end().to_owned(),
        format!("{}\r", plain.trim_end()),
        plain.replace(',', " , ").replace("\"a , b\"", "\"a,b\"").replace("\" ", "\"").replace(" \"", "\""),
    ] {
        assert_eq!(rows(&changed), expected, "{changed:?}");
    }
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    for end in ["\n", "\r\n"] {
        let text = format!("{TRADES}\n1,A,,,1,2,\n\n\n\n2,A,,,1,2,\n3,A,,,x,2,\n\n4,A,,,1,2,");
        let text = format!("\n\n{text}").replace('\n', end);
        let lines = rows(text).into_iter().map(|row| row.map_or_else(|error| error.line, |row| row.line));
        assert_eq!(lines.collect::<Vec<_>>(), [5, 9, 10, 12]);
    }
}

#[test]
fn errors_name_file_line_column_value_and_fix() {
    let trade = |row: &str| row_error(format!("{TRADES}{row}\n"));
    assert_eq!(
        trade("1,AAPL,,,1.2.3,5,buy"),
        "ticks.csv line 2, column price: \"1.2.3\" not a decimal number; write a number such as 1.121200 or 2e-06"
    );
    for (row, wanted) in [
        ("1,AAPL,,,1234567890123456789012,5,", "column price: \"1234567890123456789012\" more than 18"),
        ("1,AAPL,,,nan,5,", "column price: \"nan\" not a decimal"),
        ("1,AAPL,,,,5,", "column price: is empty; every row needs it"),
        ("1,AAPL,,,1,,", "column size: is empty; every row needs it"),
        ("1,AAPL,,,1,-5,", "column size: \"-5\" is below zero"),
        ("1,AAPL,,,1,5,hold", "column aggressor_side: \"hold\" is no side; write buy, sell"),
        ("1,,,,1,5,", "column symbol: is empty; a symbol is 1 to 112"),
        ("1,BTC USD,,,1,5,", "column symbol: \"BTC USD\" cannot be part of a topic"),
        (",A,,,1,5,", "column ts_event_ns: is empty; write whole nanoseconds"),
        ("1.5,A,,,1,5,", "column ts_event_ns: \"1.5\" is no 64-bit whole number"),
        ("2021-01-08,A,,,1,5,", "column ts_event_ns: \"2021-01-08\" is no 64-bit"),
        ("1610064000,A,,,1,5,", "\"1610064000\" looks like seconds; "),
        ("1610064000278,A,,,1,5,", "\"1610064000278\" looks like milliseconds; "),
        ("1610064000278000,A,,,1,5,", "\"1610064000278000\" looks like microseconds; "),
        ("1,A,,,1,5", "line 2: 6 values, but line 1 names 7 columns"),
        ("1,A,,,1,5,buy,", "line 2: 8 values, but line 1 names 7 columns; values that hold a comma"),
    ] {
        let found = trade(row);
        assert!(found.starts_with("ticks.csv line 2") && found.contains(wanted), "{found}");
    }
    let found = row_error(format!("{QUOTES}1,A,,,,,\n"));
    assert!(found.contains("column bid: is empty and so is ask"), "{found}");
    let long = format!("{TRADES}1,A,{},,1,5,\n", "V".repeat(TEXT_BYTES_MAX + 1));
    let found = row_error(long);
    assert!(found.contains("VVV…\" is longer than 256 bytes") && found.len() < 200, "{found}");
}

#[test]
fn reading_goes_on_after_a_bad_row() {
    let found = rows(format!("{TRADES}1,A,,,1,2,\n2,A,,,bad,2,\n3,A\n4,A,,,1,2,\n"));
    let ok: Vec<bool> = found.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, false, true]);
}

#[test]
fn text_that_is_not_utf8_is_shown_where_it_is() {
    let mut bytes = format!("{TRADES}1,A,B").into_bytes();
    bytes.extend_from_slice(b"\xE9ta,,1,2,\n2,A,,,1,2,\n");
    let found = rows(&bytes);
    let error = found[0].as_ref().unwrap_err();
    assert_eq!((error.line, error.column.as_deref()), (2, Some("venue")));
    assert!(error.problem.contains("is not UTF-8 at byte 2 of the value"), "{error}");
    assert!(found[1].is_ok());
    // An ignored column too: it may hide that the whole file is of another encoding.
    assert!(row_error(b"ts_event_ns,symbol,price,size,note\n1,A,1,1,\xFF\n").contains("column note"));
    let utf16: Vec<u8> = TRADES.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = open([b"\xFF\xFE".as_slice(), &utf16].concat()).unwrap_err().to_string();
    assert!(error.contains("column 1 is not UTF-8 at its byte 1") && error.contains("save"), "{error}");
}

#[test]
fn first_lines_that_will_not_do_say_what_is_missing_and_what_was_found() {
    let error = |text: &str| open(text).unwrap_err().to_string();
    assert_eq!(
        error("time,symbol,price\n"),
        "ticks.csv line 1: missing ts_event_ns, size; found time, symbol, price. Trades need ts_event_ns, \
         symbol, price, size; quotes need ts_event_ns, symbol, bid, ask"
    );
    for (text, wanted) in [
        ("", "ticks.csv is empty; its first line must name the columns"),
        ("\r\n\r\n", "is empty"),
        ("ts_event_ns,symbol\n", "missing price and size, or bid and ask;"),
        ("ts_event_ns,symbol,bid\n", "missing ask;"),
        ("ts_event_ns,symbol,bid,size\n", "missing ask;"),
        ("ts_event_ns,symbol,bid,price\n", "missing size;"),
        ("ts_event_ns,symbol,price,size,Price\n", "column price is there twice; keep one"),
        ("ts_event_ns;symbol;price;size\n", "this looks like semicolons"),
        ("ts_event_ns\tsymbol\tprice\tsize\n", "this looks like tabs"),
        ("1610064000278000000,BTCUSDT,39432.48,0.1\n", "this looks like a row"),
        ("ts_event_ns,\"sym\nbol\",price,size\n", "missing symbol; found ts_event_ns, sym\\nbol"),
    ] {
        let found = error(text);
        assert!(found.contains(wanted), "{found}");
    }
    let many = error(&"column,".repeat(9_000));
    assert!(many.len() < 600, "{}", many.len());
    let missing = Reader::open("no/such/file.csv").unwrap_err().to_string();
    assert!(missing.starts_with("no/such/file.csv cannot be read: "), "{missing}");
}

#[test]
fn a_line_may_have_64_kib_and_not_more() {
    let line = |length: usize| {
        let head = "1,A,1,1,";
        format!("{head}{}\n", "x".repeat(length - head.len() - 1))
    };
    let header = "ts_event_ns,symbol,price,size,note\n";
    let good = line(100);
    let fits = format!("{header}{good}{}{good}", line(LINE_BYTES_MAX));
    assert!(rows(&fits).iter().all(Result::is_ok));
    // Read-ahead makes no difference: the line's own length is what counts.
    for before in [0, 1, 17, 163, 164, 1_000] {
        let text =
            format!("{header}{}{}{good}", good.repeat(before), line(LINE_BYTES_MAX + READ_AHEAD_BYTES + 1));
        let found = rows(&text);
        assert_eq!(found.len(), before + 1, "after it nothing is read");
        let error = found[before].as_ref().unwrap_err();
        assert_eq!(error.line, before as u64 + 2);
        assert!(error.problem.starts_with("longer than 65536 bytes"), "{error}");
    }
    let error = open("x".repeat(LINE_BYTES_MAX * 2)).unwrap_err().to_string();
    assert!(error.contains("line 1: longer than 65536 bytes"), "{error}");
}

#[test]
fn a_quote_left_open_swallows_no_rows_in_silence() {
    let tail = "2,A,,,1,2,\n".repeat(5);
    for bad in ["1,A,\",,1,2,\n", "1,A,,,1,2,\"buy\n"] {
        let error = row_error(format!("{TRADES}{bad}{tail}"));
        assert!(error.contains("line 2"), "{error}");
    }
    let error = row_error("ts_event_ns,symbol,price,size,note\n1,A,1,2,\"oh\n2,A,1,2,\n");
    assert!(error.contains("line 2, column note: \"oh\\n2,A,1,2,\" holds a line break"), "{error}");
    // And one that no memory would hold ends at the limit.
    let endless = format!("{TRADES}1,A,\"{}", "x,y\n".repeat(LINE_BYTES_MAX));
    let error = row_error(endless);
    assert!(error.contains("line 2: longer than 65536 bytes"), "{error}");
}

#[test]
fn rows_out_of_order_are_counted_and_passed_on() {
    let mut reader = open(format!("{TRADES}5,A,,,1,2,\n3,A,,,1,2,\n4,A,,,1,2,\n5,A,,,1,2,\n")).unwrap();
    let times: Vec<i64> = reader.by_ref().map(|row| row.unwrap().ts).collect();
    assert_eq!((times, reader.out_of_order()), (vec![5, 3, 4, 5], 2));
}

/// Hands out few bytes at a time, as pipes do.
struct Trickle<'a>(&'a [u8], &'a Cell<usize>);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1.set(self.1.get() + 1);
        let count = (self.1.get() % 3 + 1).min(self.0.len()).min(out.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn line_ends_may_be_cut_anywhere() {
    let text = format!("\u{feff}{TRADES}1,A,,,1,2,buy\n\n2,A,,,1,2,sell\n").replace('\n', "\r\n");
    let reads = Cell::new(0);
    for offset in 0..3 {
        reads.set(offset);
        let reader = Reader::from_reader("ticks.csv", Trickle(text.as_bytes(), &reads)).unwrap();
        assert_eq!(reader.collect::<Vec<_>>(), rows(&text));
    }
}

#[test]
fn a_file_that_breaks_off_says_so_once() {
    #[derive(Debug)]
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("disk on fire"))
        }
    }
    let text = format!("{TRADES}1,A,,,1,2,\n2,A");
    let input = io::Cursor::new(text.into_bytes()).chain(Broken);
    let found: Vec<_> = Reader::from_reader("ticks.csv", input).unwrap().collect();
    assert_eq!(found.len(), 2);
    let error = found[1].as_ref().unwrap_err();
    assert!(error.line == 3 && error.problem.contains("disk on fire"), "{error}");
    let unreadable = Reader::from_reader("ticks.csv", Broken).unwrap_err().to_string();
    assert_eq!(unreadable, "ticks.csv cannot be read: disk on fire");
}

#[test]
fn files_are_merged_by_time_and_then_by_order() {
    let file = |rows: &[(i64, &str)]| {
        let lines = rows.iter().map(|(ts, id)| format!("{ts},A,,{id},1,2,\n"));
        open(format!("{TRADES}{}", lines.collect::<String>())).unwrap()
    };
    let readers = vec![
        file(&[(2, "a1"), (5, "a2"), (5, "a3")]),
        file(&[]),
        file(&[(1, "c1"), (5, "c2"), (4, "c3"), (9, "c4")]),
        file(&[(2, "d1"), (5, "d2")]),
    ];
    let mut merged = Merged::new(readers);
    let ids: Vec<String> = merged.by_ref().map(|row| trade(row.unwrap()).trade_id.unwrap()).collect();
    assert_eq!(ids, ["c1", "a1", "d1", "a2", "a3", "c2", "c3", "d2", "c4"]);
    assert_eq!(merged.readers()[2].out_of_order(), 1);
}

#[test]
fn a_bad_row_of_one_file_does_not_stop_the_others() {
    let one = open(format!("{TRADES}1,A,,,1,2,\nx,A,,,1,2,\n3,A,,,1,2,\n")).unwrap();
    let two = open(format!("{TRADES}2,A,,,1,2,\n4,A,,,1,2,\n")).unwrap();
    let found: Vec<Option<i64>> = Merged::new(vec![one, two]).map(|row| row.ok().map(|row| row.ts)).collect();
    assert_eq!(found, [Some(1), None, Some(2), Some(3), Some(4)]);
}

#[test]
fn files_are_opened_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = path("good.csv", &format!("{TRADES}1,A,,,1,2,\n"));
    let bad = path("bad.csv", "symbol\n");
    assert_eq!(Merged::open([&good, &good]).unwrap().count(), 2);
    assert!(matches!(Merged::open([&good, &bad]), Err(OpenError::Columns { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300), quotes in any::<bool>()) {
        let header = if quotes { QUOTES } else { TRADES };
        for row in rows([header.as_bytes(), &bytes].concat()).into_iter().flatten() {
            let (payload, header) = frame::payload(&row.message);
            let view = View::access(header.type_id, &payload, header.root_len).unwrap();
            prop_assert!(view.check().is_ok() && view.write_key(&mut String::new()).is_ok());
        }
        let _ = open(bytes).map(Iterator::count);
    }

    #[test]
    fn rows_like_rows_are_answered(text in "[0-9a,\"\r\n .e-]{0,200}") {
        let found = rows(format!("{TRADES}{text}"));
        prop_assert!(found.len() <= text.lines().count() + 1);
    }
}

// ---------------------------------------------------------------------------------------------
// Recorded data, when there is some

/// Plain notation of a decimal's text, by moving its point: nothing that [`Decimal`] does.
fn plain(text: &str) -> String {
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    let Some((digits, exponent)) = text.split_once('e').filter(|_| is_number) else {
        return text.to_owned();
    };
    let exponent: i32 = exponent.parse().unwrap();
    assert!(exponent < 0, "recorded sizes are small: {text}");
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let places = usize::try_from(-exponent).unwrap();
    let padded = format!("{}{whole}", "0".repeat(places));
    let (whole, moved) = padded.split_at(padded.len() - places);
    let whole = whole.trim_start_matches('0');
    format!("{}.{moved}{fraction}", if whole.is_empty() { "0" } else { whole })
}

#[test]
fn every_recorded_file_is_read_to_the_digit() {
    let Some(folder) = std::env::var_os("TICKCAST_TEST_DATA") else {
        println!("TICKCAST_TEST_DATA is unset: no recorded data is read");
        return;
    };
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    assert!(!files.is_empty(), "no .csv in {folder:?}");
    let mut total = 0;
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
        let mut reader = Reader::open(path).unwrap();
        let mut read = 0;
        for (row, line) in reader.by_ref().zip(lines.clone()) {
            let row = row.unwrap_or_else(|error| panic!("{error}"));
            read += 1;
            assert_eq!(row.line, read + 1);
            let show = |value: Option<Decimal>| value.map(|value| value.to_string()).unwrap_or_default();
            for (column, text) in columns.iter().zip(line.split(',')) {
                let found = match (&row.message, *column) {
                    (_, "ts_event_ns") => row.ts.to_string(),
                    (Message::PublicTrade(trade), "price") => trade.price.to_string(),
                    (Message::PublicTrade(trade), "size") => trade.size.to_string(),
                    (Message::MarketData(quote), "bid") => show(quote.bid),
                    (Message::MarketData(quote), "ask") => show(quote.ask),
                    (Message::MarketData(quote), "bid_size") => show(quote.bid_size),
                    (Message::MarketData(quote), "ask_size") => show(quote.ask_size),
                    (Message::PublicTrade(trade), "symbol") => trade.symbol.clone(),
                    (Message::MarketData(quote), "symbol") => quote.symbol.clone(),
                    (Message::PublicTrade(trade), "trade_id") => trade.trade_id.clone().unwrap_or_default(),
                    (Message::PublicTrade(trade), "aggressor_side") => {
                        trade.side.map(Side::name).unwrap_or_default().to_owned()
                    }
                    (Message::PublicTrade(trade), "venue") => trade.venue.clone().unwrap_or_default(),
                    (Message::MarketData(quote), "venue") => quote.venue.clone().unwrap_or_default(),
                    (_, other) => panic!("{} has a column {other}", path.display()),
                };
                assert_eq!(found, plain(text), "{} line {}", path.display(), row.line);
            }
        }
        assert_eq!(read, lines.count() as u64, "{}", path.display());
        assert!(reader.next().is_none());
        println!("{}: {read} rows, {} out of order", path.display(), reader.out_of_order());
        total += read;
    }
    let mut merged = Merged::open(&files).unwrap();
    let times: Vec<i64> = merged.by_ref().map(|row| row.unwrap().ts).collect();
    assert_eq!(times.len() as u64, total);
    let out_of_order: u64 = merged.readers().iter().map(Reader::out_of_order).sum();
    assert!(out_of_order > 0 || times.is_sorted());
}
