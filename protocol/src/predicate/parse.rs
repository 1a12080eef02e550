//! Text to [`Node`]: one pass from left to right, in normal form from the start.
//!
//! Every word's meaning follows from where it stands: where a value is due, `and` or `in` is a value. So
//! no instrument needs quotes for being called like a word of the language. `not` is carried inward as the
//! text is read, which turns `and` into `or` below it and back.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use super::{
    Bound, Comparison, Levels, Node, Order, PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX, PREDICATE_TERMS_MAX,
    PredicateError, PredicateReason, Test, is_bare,
};
use crate::decimal::Decimal;
use crate::message::Severity;
use crate::registry::{Attribute, nearest};

/// Most characters of the text that an error repeats.
const QUOTED_CHARS_MAX: usize = 64;

pub(super) fn parse(text: &str) -> Result<Node, PredicateError> {
    if text.len() > PREDICATE_BYTES_MAX {
        let reason = PredicateReason::TooLong { length: text.len() };
        return Err(PredicateError { position: PREDICATE_BYTES_MAX, reason });
    }
    let mut parser = Parser { text, token: Token::End, start: 0, rest: 0, depth: 0, terms: 0 };
    parser.advance()?;
    if parser.token == Token::End {
        return Err(parser.error(PredicateReason::Empty));
    }
    let root = parser.disjunction(false)?;
    match parser.token {
        Token::End => Ok(root),
        _ => Err(parser.unexpected("`and`, `or` or the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Quoted(String),
    Order(Order),
    Open,
    Close,
    Comma,
    Other(char),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{}`", clip(word)),
            Self::Quoted(value) => write!(f, "the text \"{}\"", clip(value).escape_debug()),
            Self::Order(order) => write!(f, "`{}`", order.symbol()),
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Comma => f.write_str("`,`"),
            Self::Other(other) => write!(f, "`{}`", other.escape_debug()),
            Self::End => f.write_str("the end"),
        }
    }
}

/// The current token lies from `start` to `rest`.
struct Parser<'a> {
    text: &'a str,
    token: Token<'a>,
    start: usize,
    rest: usize,
    depth: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    /// `negated`: an odd number of `not`s stands before this.
    fn disjunction(&mut self, negated: bool) -> Result<Node, PredicateError> {
        let mut operands = vec![self.conjunction(negated)?];
        while self.is_keyword("or") {
            self.advance()?;
            operands.push(self.conjunction(negated)?);
        }
        Ok(if negated { Node::all(operands) } else { Node::any(operands) })
    }

    fn conjunction(&mut self, negated: bool) -> Result<Node, PredicateError> {
        let mut operands = vec![self.condition(negated)?];
        while self.is_keyword("and") {
            self.advance()?;
            operands.push(self.condition(negated)?);
        }
        Ok(if negated { Node::any(operands) } else { Node::all(operands) })
    }

    fn condition(&mut self, negated: bool) -> Result<Node, PredicateError> {
        if self.is_keyword("not") {
            self.enter()?;
            let condition = self.condition(!negated)?;
            self.depth -= 1;
            return Ok(condition);
        }
        if self.token != Token::Open {
            return self.comparison(negated);
        }
        self.enter()?;
        let condition = self.disjunction(negated)?;
        self.depth -= 1;
        self.expect(&Token::Close, "`and`, `or` or `)`")?;
        Ok(condition)
    }

    /// Takes a `not` or an opening parenthesis.
    fn enter(&mut self) -> Result<(), PredicateError> {
        if self.depth == PREDICATE_DEPTH_MAX {
            return Err(self.error(PredicateReason::Depth));
        }
        self.depth += 1;
        self.advance()
    }

    fn comparison(&mut self, negated: bool) -> Result<Node, PredicateError> {
        let Token::Word(word) = self.token else {
            return Err(self.unexpected("a condition such as severity>=high, `not` or `(`"));
        };
        let attribute = Attribute::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(word));
        let Some(attribute) = attribute else {
            let name = clip(word);
            let suggestion =
                nearest(&name.to_ascii_lowercase(), Attribute::ALL.into_iter().map(Attribute::name));
            return Err(self.error(PredicateReason::UnknownAttribute { name, suggestion }));
        };
        self.advance()?;
        let test = |comparison| Node::Test(Test { negated, comparison });
        match attribute {
            Attribute::Severity => Ok(test(Comparison::Severity(self.levels()?))),
            Attribute::Price if self.is_keyword("between") => {
                let [low, high] = self.range()?;
                let bounds = [(Order::AtLeast, low), (Order::AtMost, high)];
                let bounds = bounds.map(|(order, bound)| test(Comparison::Price(order, bound))).into();
                Ok(if negated { Node::any(bounds) } else { Node::all(bounds) })
            }
            Attribute::Price => {
                let Token::Order(order) = self.token else { return Err(self.operator(attribute)) };
                self.advance()?;
                Ok(test(Comparison::Price(order, self.price()?)))
            }
            attribute => {
                let (excluded, mut values) = self.texts(attribute)?;
                values.sort_unstable();
                values.dedup();
                Ok(test(Comparison::Text { attribute, excluded, values }))
            }
        }
    }

    /// What follows an attribute of text: whether the values are excluded, and the values.
    fn texts(&mut self, attribute: Attribute) -> Result<(bool, Vec<String>), PredicateError> {
        let excluded = match self.token {
            Token::Order(Order::Equal) => false,
            Token::Order(Order::Other) => true,
            _ => {
                let excluded = self.membership(attribute)?;
                return Ok((excluded, self.list(Self::value)?));
            }
        };
        self.advance()?;
        Ok((excluded, vec![self.value()?]))
    }

    /// What follows `severity`.
    fn levels(&mut self) -> Result<Levels, PredicateError> {
        self.count_term()?;
        if let Token::Order(order) = self.token {
            self.advance()?;
            return Ok(Levels::with(order, self.severity()?));
        }
        let excluded = self.membership(Attribute::Severity)?;
        let listed = self.list(Self::severity)?.into_iter().map(Levels::only);
        let listed = Levels(listed.fold(0, |all, Levels(level)| all | level));
        Ok(if excluded { listed.complement() } else { listed })
    }

    /// `in` is false, `not in` is true.
    fn membership(&mut self, attribute: Attribute) -> Result<bool, PredicateError> {
        let excluded = self.is_keyword("not");
        if excluded {
            self.advance()?;
        }
        if !self.is_keyword("in") {
            return Err(self.operator(attribute));
        }
        self.advance()?;
        Ok(excluded)
    }

    fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, PredicateError>,
    ) -> Result<Vec<T>, PredicateError> {
        self.expect(&Token::Open, "`(` and a list of values")?;
        let mut list = vec![element(self)?];
        while self.token == Token::Comma {
            self.advance()?;
            list.push(element(self)?);
        }
        self.expect(&Token::Close, "`,` or `)`")?;
        Ok(list)
    }

    fn value(&mut self) -> Result<String, PredicateError> {
        let value = match &mut self.token {
            Token::Word(word) => (*word).to_owned(),
            Token::Quoted(value) => std::mem::take(value),
            _ => {
                return Err(
                    self.unexpected("a value: letters, digits and . _ : / @ + - or text in \"quotes\"")
                );
            }
        };
        self.count_term()?;
        self.advance()?;
        Ok(value)
    }

    fn severity(&mut self) -> Result<Severity, PredicateError> {
        let name: Cow<'_, str> = match &self.token {
            Token::Word(word) => (*word).into(),
            Token::Quoted(value) => value.as_str().into(),
            _ => return Err(self.unexpected("the name of a severity")),
        };
        let Some(number) = Severity::NAMES.number_of(&name.to_ascii_lowercase()) else {
            return Err(self.error(PredicateReason::Severity { name: clip(&name) }));
        };
        self.advance()?;
        Ok(Severity(number))
    }

    fn price(&mut self) -> Result<Bound, PredicateError> {
        let Token::Word(word) = self.token else { return Err(self.unexpected("a number")) };
        let price = word.parse::<Decimal>();
        let price =
            price.map_err(|error| self.error(PredicateReason::Price { number: clip(word), error }))?;
        self.count_term()?;
        self.advance()?;
        Ok(Bound::new(price))
    }

    /// `between` and its two bounds.
    fn range(&mut self) -> Result<[Bound; 2], PredicateError> {
        let position = self.start;
        self.advance()?;
        let low = self.price()?;
        if !self.is_keyword("and") {
            return Err(self.unexpected("`and` and the upper bound"));
        }
        self.advance()?;
        let high = self.price()?;
        if low > high {
            let (low, high) = (low.0.to_string(), high.0.to_string());
            return Err(PredicateError { position, reason: PredicateReason::Range { low, high } });
        }
        Ok([low, high])
    }

    fn count_term(&mut self) -> Result<(), PredicateError> {
        self.terms += 1;
        if self.terms > PREDICATE_TERMS_MAX {
            return Err(self.error(PredicateReason::Terms));
        }
        Ok(())
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn expect(&mut self, token: &Token<'_>, expected: &'static str) -> Result<(), PredicateError> {
        if self.token != *token {
            return Err(self.unexpected(expected));
        }
        self.advance()
    }

    fn unexpected(&self, expected: &'static str) -> PredicateError {
        self.error(PredicateReason::Unexpected { found: self.token.to_string(), expected })
    }

    fn operator(&self, attribute: Attribute) -> PredicateError {
        self.error(PredicateReason::Operator { attribute, found: self.token.to_string() })
    }

    fn error(&self, reason: PredicateReason) -> PredicateError {
        PredicateError { position: self.start, reason }
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), PredicateError> {
        let rest = self.text[self.rest..].trim_ascii_start();
        self.start = self.text.len() - rest.len();
        let bytes = rest.as_bytes();
        let (token, length) = match (bytes.first(), bytes.get(1)) {
            (None, _) => (Token::End, 0),
            (Some(b'('), _) => (Token::Open, 1),
            (Some(b')'), _) => (Token::Close, 1),
            (Some(b','), _) => (Token::Comma, 1),
            (Some(b'='), _) => (Token::Order(Order::Equal), 1),
            (Some(b'!'), Some(b'=')) => (Token::Order(Order::Other), 2),
            (Some(b'<'), Some(b'=')) => (Token::Order(Order::AtMost), 2),
            (Some(b'<'), _) => (Token::Order(Order::Below), 1),
            (Some(b'>'), Some(b'=')) => (Token::Order(Order::AtLeast), 2),
            (Some(b'>'), _) => (Token::Order(Order::Above), 1),
            (Some(b'"'), _) => {
                let length = quoted_len(bytes).ok_or_else(|| self.error(PredicateReason::Quotes))?;
                let value = serde_json::from_str(&rest[..length]);
                (Token::Quoted(value.map_err(|_| self.error(PredicateReason::Quotes))?), length)
            }
            (Some(byte), _) if is_bare(*byte) => {
                let length = bytes.iter().take_while(|byte| is_bare(**byte)).count();
                (Token::Word(&rest[..length]), length)
            }
            (Some(_), _) => {
                let other = rest.chars().next().unwrap_or_default();
                (Token::Other(other), other.len_utf8())
            }
        };
        self.token = token;
        self.rest = self.start + length;
        Ok(())
    }
}

/// Bytes of the quoted text that `bytes` begins with, both quotes included.
fn quoted_len(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return Some(at + 1),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

fn clip(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}
