//! Who a peer is and what it may do. Anonymous on loopback so far; the question is asked everywhere it
//! will have to be.
#![forbid(unsafe_code)]

use tickcast_protocol::TopicFilter;
use tickcast_protocol::registry::TypeInfo;

/// Who a peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular: anyone on this machine.
    #[default]
    Anonymous,
}

/// A refusal, and what would change it. Says the same for what is absent and what is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// In words.
    pub message: &'static str,
}

/// Decides. Asked at hello, at every subscribe and at every publish; must not block.
pub trait Authorizer: Send + Sync {
    /// Whether this principal may publish at all.
    ///
    /// # Errors
    /// Why not.
    fn may_connect_as_publisher(&self, principal: &Principal) -> Result<(), Denied>;

    /// Whether it may publish a message of this type.
    ///
    /// # Errors
    /// Why not.
    fn may_publish(&self, principal: &Principal, info: &TypeInfo) -> Result<(), Denied>;

    /// Whether it may have what the filter names.
    ///
    /// # Errors
    /// Why not.
    fn may_subscribe(&self, principal: &Principal, filter: &TopicFilter) -> Result<(), Denied>;
}

/// Loopback without authentication: everyone may subscribe, and publish if `open`.
#[derive(Clone, Copy, Debug)]
pub struct LoopbackAuthorizer {
    /// The setting `publish.loopback_open`.
    pub open: bool,
}

const PUBLISHING_CLOSED: Denied =
    Denied { message: "publishing is not open here: set publish.loopback_open = true, or publish elsewhere" };

impl Authorizer for LoopbackAuthorizer {
    fn may_connect_as_publisher(&self, _: &Principal) -> Result<(), Denied> {
        if self.open { Ok(()) } else { Err(PUBLISHING_CLOSED) }
    }

    fn may_publish(&self, principal: &Principal, _: &TypeInfo) -> Result<(), Denied> {
        self.may_connect_as_publisher(principal)
    }

    fn may_subscribe(&self, _: &Principal, _: &TopicFilter) -> Result<(), Denied> {
        Ok(())
    }
}
