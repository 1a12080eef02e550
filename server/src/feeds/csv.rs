//! Recorded market data: comma-separated files, one row an event, columns found by their names.
//!
//! | columns | message |
//! | --- | --- |
//! | `ts_event_ns`, `symbol`, `price`, `size`; optional `venue`, `trade_id`, `aggressor_side` | `public_trade` |
//! | `ts_event_ns`, `symbol`, `bid`, `ask`; optional `venue`, `bid_size`, `ask_size`, `price`, `size` | `market_data` |
//!
//! A file with `bid` and `ask` is one of quotes; its `price` and `size` are the last trade's. Names are
//! compared without regard to case, order does not matter, other columns are ignored and listed by
//! [`Reader::ignored_columns`]. Space around a name or value is not part of it, and an empty optional
//! value is absent. Numbers are taken digit for digit, never through a float. Rows ought to be oldest
//! first; those that are not are passed on and counted.
//!
//! A reader holds one line, of at most [`LINE_BYTES_MAX`], and a read-ahead of 16 KiB.
#![forbid(unsafe_code)]

mod columns;
mod lines;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder, Terminator, Trim};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{MarketData, PublicTrade, Side};
use tickcast_protocol::topic::is_key;
use tickcast_protocol::{Decimal, Message};

use self::columns::{Columns, Kind};
use self::lines::Lines;

/// Longest line in bytes. A longer one ends the file: past it nothing tells where a row begins.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest `venue` and `trade_id` in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const READ_AHEAD_BYTES: usize = 16 * 1024;
/// Longest quotation of a file's contents in an error, in characters.
const QUOTED_CHARS_MAX: usize = 64;
/// Most column names an error or a list of ignored columns names.
const NAMED_COLUMNS_MAX: usize = 32;

/// One event of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// When it happened, in nanoseconds since the Unix epoch.
    pub ts: i64,
    /// What happened.
    pub message: Message,
    /// The line it starts on, from 1.
    pub line: u64,
}

/// A row that cannot be read. Its file is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} line {line}{}: {problem}", column.as_ref().map(|name| format!(", column {name}")).unwrap_or_default())]
pub struct RowError {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// The line the row starts on, from 1.
    pub line: u64,
    /// The column, if it is one value that is at fault.
    pub column: Option<String>,
    /// That value, escaped and cut to 64 characters; empty if it is no single value.
    pub value: String,
    /// What is wrong, and how to put it right.
    pub problem: String,
}

/// A file that cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened or read.
    #[error("{file} cannot be read: {reason}")]
    Unreadable {
        /// The file, as it was named.
        file: Arc<str>,
        /// Why.
        reason: String,
    },
    /// There is not even a line of column names.
    #[error(
        "{file} is empty; its first line must name the columns, for example ts_event_ns,symbol,price,size"
    )]
    Empty {
        /// The file, as it was named.
        file: Arc<str>,
    },
    /// The first line is not one.
    #[error(transparent)]
    FirstLine(RowError),
    /// Columns are missing.
    #[error(
        "{file} line 1: missing {}; found {}{hint}. Trades need ts_event_ns, symbol, price, size; \
         quotes need ts_event_ns, symbol, bid, ask",
        missing.join(", "), if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    )]
    Columns {
        /// The file, as it was named.
        file: Arc<str>,
        /// The columns that are not there.
        missing: Vec<&'static str>,
        /// The columns that are there, escaped, 32 of them at most.
        found: Vec<String>,
        /// What may be the reason.
        hint: &'static str,
    },
    /// A column is there twice.
    #[error("{file} line 1: column {column} is there twice; keep one")]
    Twice {
        /// The file, as it was named.
        file: Arc<str>,
        /// The column.
        column: &'static str,
    },
}

/// Reads one file row by row. After a row that cannot be read it goes on with the next, unless the file
/// itself cannot be read on.
#[derive(Debug)]
pub struct Reader<R> {
    name: Arc<str>,
    csv: csv::Reader<Lines<R>>,
    record: ByteRecord,
    columns: Columns,
    ignored: Vec<String>,
    newest: i64,
    out_of_order: u64,
    done: bool,
}

impl Reader<File> {
    /// Opens a file and reads its first line.
    ///
    /// # Errors
    /// When it cannot be read, or its columns are not those of trades or quotes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_reader(&name, file),
            Err(error) => Err(OpenError::Unreadable { file: name.into(), reason: error.to_string() }),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads the first line of `input`, which errors will call `name`.
    ///
    /// # Errors
    /// As for [`open`](Reader::open).
    pub fn from_reader(name: &str, mut input: R) -> Result<Self, OpenError> {
        // The byte order mark is taken off here: the parser takes one for the end of a file when a read
        // gives just that.
        let mut head = Vec::new();
        if let Err(error) = input.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut head) {
            return Err(OpenError::Unreadable { file: name.into(), reason: error.to_string() });
        }
        if head == BYTE_ORDER_MARK {
            head.clear();
        }
        let mut reader = Self {
            name: name.into(),
            csv: ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .trim(Trim::All)
                .terminator(Terminator::Any(b'\n'))
                .buffer_capacity(READ_AHEAD_BYTES)
                .from_reader(Lines::new(io::Cursor::new(head).chain(input))),
            record: ByteRecord::new(),
            columns: Columns::default(),
            ignored: Vec::new(),
            newest: i64::MIN,
            out_of_order: 0,
            done: false,
        };
        let file = || Arc::clone(&reader.name);
        let header = match read_record(&mut reader.csv, &mut reader.record) {
            Ok(Some(line)) => reader.header(line).map_err(OpenError::FirstLine)?,
            Ok(None) => return Err(OpenError::Empty { file: file() }),
            Err(Stop::TooLong) => return Err(OpenError::FirstLine(reader.error(1, too_long()))),
            Err(Stop::Io(reason)) => return Err(OpenError::Unreadable { file: file(), reason }),
        };
        (reader.columns, reader.ignored) = Columns::find(&reader.name, &header)?;
        Ok(reader)
    }
}

impl<R> Reader<R> {
    /// The file, as it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns that are there and not used, escaped, 32 of them at most. To be said once.
    #[must_use]
    pub fn ignored_columns(&self) -> &[String] {
        &self.ignored
    }

    /// Rows so far that are older than one before them.
    #[must_use]
    pub const fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    fn error(&self, line: u64, problem: String) -> RowError {
        RowError { file: Arc::clone(&self.name), line, column: None, value: String::new(), problem }
    }

    /// The record's values as the names of columns.
    fn header(&self, line: u64) -> Result<Vec<String>, RowError> {
        let text = |(position, name): (usize, &[u8])| match str::from_utf8(name) {
            Ok(name) => Ok(name.to_owned()),
            Err(error) => {
                let at = error.valid_up_to() + 1;
                let problem = format!(
                    "the name of column {} is not UTF-8 at its byte {at}: {}; save the file as UTF-8",
                    position + 1,
                    quoted(&String::from_utf8_lossy(name)),
                );
                Err(self.error(line, problem))
            }
        };
        self.record.iter().enumerate().map(text).collect()
    }

    fn row(&mut self, line: u64) -> Result<Row, RowError> {
        let Columns { width, ts, symbol, venue, kind, ref names } = self.columns;
        if self.record.len() != width {
            let (found, hint) = (self.record.len(), "; values that hold a comma must be quoted");
            let hint = if found > width { hint } else { "" };
            return Err(self.error(line, format!("{found} values, but line 1 names {width} columns{hint}")));
        }
        let values = Values { record: &self.record, names, file: &self.name, line };
        for position in 0..width {
            values.text(position)?;
        }
        let ts = values.time(ts)?;
        let symbol = values.symbol(symbol)?;
        let venue = values.bounded(venue)?;
        let message = match kind {
            Kind::Trades { price, size, trade_id, side } => Message::PublicTrade(PublicTrade {
                symbol,
                ts: Timestamp(ts),
                price: values.required(price)?,
                size: values.not_negative(Some(size))?.ok_or_else(|| values.empty(size))?,
                side: values.side(side)?,
                trade_id: values.bounded(trade_id)?,
                venue,
                instrument_id: None,
            }),
            Kind::Quotes { bid, ask, bid_size, ask_size, price, size } => {
                let quote = (values.decimal(Some(bid))?, values.decimal(Some(ask))?);
                if quote == (None, None) {
                    return Err(values.error(bid, "is empty and so is ask; give one of them".to_owned()));
                }
                Message::MarketData(MarketData {
                    symbol,
                    ts: Timestamp(ts),
                    price: values.decimal(price)?,
                    volume: values.not_negative(size)?,
                    bid: quote.0,
                    ask: quote.1,
                    bid_size: values.not_negative(bid_size)?,
                    ask_size: values.not_negative(ask_size)?,
                    open: None,
                    high: None,
                    low: None,
                    prev_close: None,
                    change: None,
                    change_ratio: None,
                    venue,
                    asset_class: None,
                    instrument_id: None,
                })
            }
        };
        self.out_of_order += u64::from(ts < self.newest);
        self.newest = self.newest.max(ts);
        Ok(Row { ts, message, line })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next_line = self.csv.position().line();
        match read_record(&mut self.csv, &mut self.record) {
            Ok(Some(line)) => Some(self.row(line)),
            Ok(None) => {
                self.done = true;
                None
            }
            Err(stop) => {
                self.done = true;
                let problem = match stop {
                    Stop::TooLong => too_long(),
                    Stop::Io(reason) => format!("the file cannot be read on: {reason}"),
                };
                Some(Err(self.error(next_line, problem)))
            }
        }
    }
}

/// Several files as one, oldest row first; of equal times the one of the file named first. An error comes
/// when its file's turn to be looked at comes, which is before its time is known.
#[derive(Debug)]
pub struct Merged<R> {
    readers: Vec<Reader<R>>,
    /// The next row of each file.
    heads: Vec<Option<Row>>,
    order: BinaryHeap<Reverse<(i64, usize)>>,
    /// Files whose next row is not known.
    unread: Vec<usize>,
}

impl Merged<File> {
    /// Opens every file.
    ///
    /// # Errors
    /// The first file that cannot be read at all.
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self, OpenError> {
        paths.into_iter().map(Reader::open).collect::<Result<Vec<_>, _>>().map(Self::new)
    }
}

impl<R> Merged<R> {
    /// Merges readers.
    #[must_use]
    pub fn new(readers: Vec<Reader<R>>) -> Self {
        let heads = readers.iter().map(|_| None).collect();
        // Taken from the end: the first file is looked at first.
        let unread = (0..readers.len()).rev().collect();
        Self { readers, heads, order: BinaryHeap::new(), unread }
    }

    /// The files, for what they have to say about themselves.
    #[must_use]
    pub fn readers(&self) -> &[Reader<R>] {
        &self.readers
    }
}

impl<R: Read> Iterator for Merged<R> {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(file) = self.unread.pop() {
            match self.readers[file].next() {
                Some(Ok(row)) => {
                    self.order.push(Reverse((row.ts, file)));
                    self.heads[file] = Some(row);
                }
                Some(Err(error)) => {
                    self.unread.push(file);
                    return Some(Err(error));
                }
                None => {}
            }
        }
        let Reverse((_, file)) = self.order.pop()?;
        self.unread.push(file);
        self.heads[file].take().map(Ok)
    }
}

/// The values of one row, and where they are for errors.
struct Values<'a> {
    record: &'a ByteRecord,
    names: &'a [String],
    file: &'a Arc<str>,
    line: u64,
}

impl<'a> Values<'a> {
    fn text(&self, column: usize) -> Result<&'a str, RowError> {
        let bytes = &self.record[column];
        let text = str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to() + 1;
            self.error(column, format!("is not UTF-8 at byte {at} of the value; save the file as UTF-8"))
        })?;
        if text.contains('\n') {
            return Err(self.error(column, "holds a line break; is a quote left open?".to_owned()));
        }
        Ok(text)
    }

    fn optional(&self, column: Option<usize>) -> Result<Option<(usize, &'a str)>, RowError> {
        let Some(column) = column else { return Ok(None) };
        let text = self.text(column)?;
        Ok((!text.is_empty()).then_some((column, text)))
    }

    fn time(&self, column: usize) -> Result<i64, RowError> {
        let text = self.text(column)?;
        let wanted = "write whole nanoseconds since 1970-01-01 UTC, such as 1610064000278000000";
        let Ok(ts) = text.parse::<i64>() else {
            let wrong = if text.is_empty() { "is empty" } else { "is no 64-bit whole number" };
            return Err(self.error(column, format!("{wrong}; {wanted}")));
        };
        // Between these bounds lie today's times in other units, and no nanoseconds after May 1970.
        let (unit, zeros) = match ts {
            1_000_000_000..100_000_000_000 => ("seconds", 9),
            1_000_000_000_000..100_000_000_000_000 => ("milliseconds", 6),
            1_000_000_000_000_000..10_000_000_000_000_000 => ("microseconds", 3),
            _ => return Ok(ts),
        };
        Err(self.error(column, format!("looks like {unit}; {wanted} (here: add {zeros} zeros)")))
    }

    fn symbol(&self, column: usize) -> Result<String, RowError> {
        let text = self.text(column)?;
        if is_key(text) {
            return Ok(text.to_owned());
        }
        let wrong = if text.is_empty() { "is empty" } else { "cannot be part of a topic" };
        let fix = "a symbol is 1 to 112 characters of A-Z a-z 0-9 . _ : / @ - with no dot at an end";
        Err(self.error(column, format!("{wrong}; {fix}")))
    }

    fn bounded(&self, column: Option<usize>) -> Result<Option<String>, RowError> {
        match self.optional(column)? {
            Some((column, text)) if text.len() > TEXT_BYTES_MAX => {
                Err(self.error(column, format!("is longer than {TEXT_BYTES_MAX} bytes; shorten it")))
            }
            found => Ok(found.map(|(_, text)| text.to_owned())),
        }
    }

    fn decimal(&self, column: Option<usize>) -> Result<Option<Decimal>, RowError> {
        let Some((column, text)) = self.optional(column)? else { return Ok(None) };
        let fix = "write a number such as 1.121200 or 2e-06";
        text.parse().map(Some).map_err(|error| self.error(column, format!("{error}; {fix}")))
    }

    fn required(&self, column: usize) -> Result<Decimal, RowError> {
        self.decimal(Some(column))?.ok_or_else(|| self.empty(column))
    }

    fn not_negative(&self, column: Option<usize>) -> Result<Option<Decimal>, RowError> {
        match (column, self.decimal(column)?) {
            (Some(column), Some(size)) if size.mantissa() < 0 => {
                let problem = "is below zero; a size has no sign, the side has its own column";
                Err(self.error(column, problem.to_owned()))
            }
            (_, size) => Ok(size),
        }
    }

    fn side(&self, column: Option<usize>) -> Result<Option<Side>, RowError> {
        match self.optional(column)? {
            None => Ok(None),
            Some((_, text)) if text.eq_ignore_ascii_case("buy") => Ok(Some(Side::BUY)),
            Some((_, text)) if text.eq_ignore_ascii_case("sell") => Ok(Some(Side::SELL)),
            Some((column, _)) => {
                Err(self.error(column, "is no side; write buy, sell, or nothing if unknown".to_owned()))
            }
        }
    }

    fn empty(&self, column: usize) -> RowError {
        self.error(column, "is empty; every row needs it".to_owned())
    }

    /// An error about one value; `problem` goes on from it.
    fn error(&self, column: usize, problem: String) -> RowError {
        let value = bounded(&String::from_utf8_lossy(&self.record[column]));
        RowError {
            file: Arc::clone(self.file),
            line: self.line,
            column: Some(self.names[column].clone()),
            problem: if value.is_empty() { problem } else { format!("\"{value}\" {problem}") },
            value,
        }
    }
}

/// Why a file cannot be read on.
enum Stop {
    TooLong,
    Io(String),
}

fn too_long() -> String {
    format!("longer than {LINE_BYTES_MAX} bytes, the rest of the file is not read; is a quote left open?")
}

/// Reads one record and returns the line it starts on, or `None` at the end.
fn read_record<R: Read>(
    csv: &mut csv::Reader<Lines<R>>,
    record: &mut ByteRecord,
) -> Result<Option<u64>, Stop> {
    let start = csv.position().byte();
    csv.get_mut().allow_until(start + LINE_BYTES_MAX as u64);
    match csv.read_byte_record(record) {
        // `Lines` ends every line in one LF, so the parser's count is one past the record's last line;
        // counted from its end, because blank lines before it belong to no record.
        Ok(true) => {
            let inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            Ok(Some(csv.position().line() - 1 - inside))
        }
        Ok(false) => Ok(None),
        Err(_) if csv.get_ref().too_long => Err(Stop::TooLong),
        Err(error) => Err(Stop::Io(error.to_string())),
    }
}

/// Text of a file, escaped and cut.
fn bounded(text: &str) -> String {
    let mut cut: String = text.escape_debug().take(QUOTED_CHARS_MAX).collect();
    if text.escape_debug().nth(QUOTED_CHARS_MAX).is_some() {
        cut.push('…');
    }
    cut
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", bounded(text))
}

#[cfg(test)]
mod tests;
