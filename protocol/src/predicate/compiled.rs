//! A predicate ready to be evaluated: a row of tests, each of which says where to go on.
//!
//! ```text
//! severity>=high and (symbol=A or symbol!=B and price>5)
//!
//!   3  severity in {…}    yes -> 2        no -> reject
//!   2  symbol in {A}      yes -> accept   no -> 1
//!   1  symbol not in {B}  yes -> 0        no -> reject
//!   0  price > 5          yes -> accept   no -> reject
//! ```
//!
//! The first test is the last of the row and every jump leads to an earlier place, so each test runs at
//! most once, without recursion, allocation or backtracking. Texts are compared by the hashes that events
//! carry.
#![forbid(unsafe_code)]

use std::hash::BuildHasher;

use super::{Bound, Comparison, Levels, Node, Order, Test};
use crate::registry::{Attribute, Attributes, EQUALITY_ATTRIBUTES, hash_severity, hash_text};

/// Up to this many hashes are compared one after the other; more are searched.
const LINEAR_MAX: usize = 8;

/// A predicate made ready for one hasher. Holds nothing but what an evaluation reads.
#[derive(Clone, Debug)]
pub struct Compiled {
    steps: Box<[Step]>,
    hashes: Box<[u64]>,
    required: Option<(Attribute, Box<[u64]>)>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    check: Check,
    negated: bool,
    yes: Next,
    no: Next,
}

/// Where evaluation goes on.
#[derive(Clone, Copy, Debug)]
enum Next {
    Accept,
    Reject,
    /// At this step, which lies before the one that says so.
    Step(u16),
}

#[derive(Clone, Copy, Debug)]
enum Check {
    /// The hash of `attribute` is among `hashes[from..to]` or, `excluded`, is another.
    Text {
        attribute: Attribute,
        excluded: bool,
        from: u16,
        to: u16,
    },
    Severity(Levels),
    Price(Order, Bound),
}

impl Compiled {
    pub(super) fn new(root: &Node, hasher: &impl BuildHasher) -> Self {
        let mut build = Build { hasher, steps: Vec::new(), hashes: Vec::new() };
        build.lay(root, Next::Accept, Next::Reject);
        let (steps, hashes) = (build.steps.into(), build.hashes.into());
        let mut required: Option<(Attribute, Vec<u64>)> = None;
        for (attribute, hashes) in Attribute::EQUALITY.into_iter().zip(requirements(root, hasher)) {
            let Some(hashes) = hashes else { continue };
            // A severity is shared by so many events that any text says more.
            let better = match &required {
                Some((_, known)) => attribute != Attribute::Severity && hashes.len() < known.len(),
                None => true,
            };
            if better {
                required = Some((attribute, hashes));
            }
        }
        let required = required.map(|(attribute, hashes)| (attribute, hashes.into()));
        Self { steps, hashes, required }
    }

    /// Whether an event with these attributes passes. Costs at most one comparison for each term; does not
    /// allocate and does not recurse.
    #[must_use]
    pub fn matches(&self, attributes: &Attributes) -> bool {
        let mut at = self.steps.len() - 1;
        loop {
            let step = &self.steps[at];
            let next = if self.holds(step.check, attributes) != step.negated { step.yes } else { step.no };
            match next {
                Next::Accept => return true,
                Next::Reject => return false,
                Next::Step(next) => at = usize::from(next),
            }
        }
    }

    /// What an event must have to pass: its hash of this equality attribute is one of these, which are
    /// sorted and different. The attribute is the one with the fewest hashes, and the severity only when
    /// no other is required. `None` when no attribute is: every event has to be evaluated.
    #[must_use]
    pub fn required(&self) -> Option<(Attribute, &[u64])> {
        self.required.as_ref().map(|(attribute, hashes)| (*attribute, &**hashes))
    }

    #[inline]
    fn holds(&self, check: Check, attributes: &Attributes) -> bool {
        match check {
            Check::Text { attribute, excluded, from, to } => {
                let hash = attributes.equality[attribute as usize];
                if hash == 0 {
                    return false;
                }
                let listed = &self.hashes[usize::from(from)..usize::from(to)];
                let found = if listed.len() <= LINEAR_MAX {
                    listed.contains(&hash)
                } else {
                    listed.binary_search(&hash).is_ok()
                };
                found != excluded
            }
            Check::Severity(levels) => attributes.severity.is_some_and(|level| levels.holds(level)),
            Check::Price(order, Bound(bound)) => {
                attributes.price.is_some_and(|price| order.holds(price.compare(bound)))
            }
        }
    }
}

struct Build<'a, H> {
    hasher: &'a H,
    steps: Vec<Step>,
    hashes: Vec<u64>,
}

impl<H: BuildHasher> Build<'_, H> {
    /// Lays the steps of a condition and says where it begins. What comes after it is already there.
    fn lay(&mut self, node: &Node, yes: Next, no: Next) -> Next {
        match node {
            Node::Test(test) => self.lay_test(test, yes, no),
            Node::All(operands) => operands.iter().rev().fold(yes, |yes, operand| self.lay(operand, yes, no)),
            Node::Any(operands) => operands.iter().rev().fold(no, |no, operand| self.lay(operand, yes, no)),
        }
    }

    fn lay_test(&mut self, test: &Test, yes: Next, no: Next) -> Next {
        let check = match &test.comparison {
            Comparison::Text { attribute, excluded, values } => {
                let from = place(self.hashes.len());
                self.hashes.extend(hashes_of(values, self.hasher));
                let to = place(self.hashes.len());
                Check::Text { attribute: *attribute, excluded: *excluded, from, to }
            }
            Comparison::Severity(levels) => Check::Severity(*levels),
            Comparison::Price(order, bound) => Check::Price(*order, *bound),
        };
        let at = Next::Step(place(self.steps.len()));
        self.steps.push(Step { check, negated: test.negated, yes, no });
        at
    }
}

fn place(index: usize) -> u16 {
    u16::try_from(index).expect("at most as many steps and values as terms are allowed")
}

/// Sorted and different.
fn hashes_of(values: &[String], hasher: &impl BuildHasher) -> Vec<u64> {
    sorted(values.iter().map(|value| hash_text(hasher, value)).collect())
}

fn sorted(mut hashes: Vec<u64>) -> Vec<u64> {
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// For each equality attribute, the hashes of which an event must have one to pass.
fn requirements(node: &Node, hasher: &impl BuildHasher) -> [Option<Vec<u64>>; EQUALITY_ATTRIBUTES] {
    let mut required = [const { None }; EQUALITY_ATTRIBUTES];
    match node {
        // What holds when a comparison does not also holds without the attribute.
        Node::Test(Test { negated: true, .. }) => {}
        Node::Test(Test { comparison, .. }) => match comparison {
            Comparison::Text { attribute, excluded: false, values } => {
                required[*attribute as usize] = Some(hashes_of(values, hasher));
            }
            Comparison::Severity(levels) if !levels.is_open() => {
                let hashes = levels.named().map(|level| hash_severity(hasher, level)).collect();
                required[Attribute::Severity as usize] = Some(sorted(hashes));
            }
            _ => {}
        },
        // Each operand must hold: the one that asks most will do.
        Node::All(operands) => {
            for operand in operands {
                for (known, more) in required.iter_mut().zip(requirements(operand, hasher)) {
                    let shorter = match (&*known, &more) {
                        (Some(known), Some(more)) => more.len() < known.len(),
                        (known, _) => known.is_none(),
                    };
                    if shorter {
                        *known = more;
                    }
                }
            }
        }
        // Any of them may be the one: required is what all of them require.
        Node::Any(operands) => {
            let mut operands = operands.iter().map(|operand| requirements(operand, hasher));
            required = operands.next().unwrap_or(required);
            for more in operands {
                for (known, more) in required.iter_mut().zip(more) {
                    *known = known.take().zip(more).map(|(known, more)| [known, more].concat());
                }
            }
            required = required.map(|hashes| hashes.map(sorted));
        }
    }
    required
}
