//! Stamps: a change inside an ordinary room event.
//!
//! The content of a stamped `org.causeway.item` event is the value's members,
//! and under `org.causeway.change` the header less `room_id` and `key` (which
//! the event says), the origin's signature, the *carrier* (the event's sender)
//! and, unless he is a user of the origin and the change's author himself, the
//! origin's signature over `{"carrier", "id"}`: it recognises a stamp that
//! somebody copied into an event of his own. An author's own server lets nobody
//! copy one into an event of the author's.
//!
//! ```json
//! "org.causeway.change": {
//!   "header": {…}, "signature": ["ed25519:1", "…"],
//!   "carrier": "@alice:a.example", "carrier_signature": ["ed25519:1", "…"] }
//! ```
//!
//! Invariant: the header that [`Stamp::read`] gives back is byte for byte the
//! one that was stamped, so it has the same id. A content whose stamp is
//! missing, broken, or says something else than the event is the content of an
//! unstamped event: to be adopted, never to be refused.

use ruma::{OwnedUserId, RoomId, UserId, signatures::Ed25519KeyPair};

use crate::{
    canonical::{self, CanonicalError, Json},
    change::{Change, ChangeError, EntrySignature, SignatureError},
    conflict,
    header::{Header, HeaderError, Kind, Members},
    item_key::ItemKey,
    sibling::Sibling,
    value::{CONFLICT_FIELD, MAX_VALUE_TEXT_BYTES, STAMP_FIELD, Value, ValueError},
};

/// A change and the event that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    change: Change,
    carrier: OwnedUserId,
    carrier_signature: Option<EntrySignature>,
}

/// Why an event's stamp says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The content is no JSON object, or too large.
    #[error("the event's content can't be read")]
    Content(#[source] Option<CanonicalError>),
    /// The stamp lacks a member or one has the wrong form.
    #[error("the stamp's {0} is malformed")]
    Malformed(&'static str),
    /// The header breaks a rule.
    #[error("the stamp's header is refused")]
    Header(#[source] HeaderError),
    /// The content beside the stamp is no value.
    #[error("the stamped content is no value")]
    Value(#[source] ValueError),
    /// The content beside the stamp is not what the header names.
    #[error("the stamp belongs to another value")]
    OtherValue(#[source] Option<ChangeError>),
    /// The stamp names another carrier than the event's sender.
    #[error("the stamp belongs to another sender's event")]
    OtherCarrier,
    /// One of the two signatures is not valid.
    #[error("the stamp is forged")]
    Forged(#[source] SignatureError),
}

impl Stamp {
    /// Stamps `change` for an event sent by `carrier`, with the origin's key.
    pub fn sign(change: Change, carrier: OwnedUserId, key: &Ed25519KeyPair) -> Self {
        let carrier_signature = needs_signature(&change, &carrier)
            .then(|| EntrySignature::sign(&carrier_text(&change, &carrier), key));
        Self { change, carrier, carrier_signature }
    }

    /// The content of the event, canonical JSON. `others` are the item's other
    /// siblings, listed in a conflicted item's face.
    #[expect(clippy::missing_panics_doc, reason = "what is parsed here was written as canonical JSON")]
    pub fn content(&self, others: &[Sibling]) -> String {
        let value = self.change.value().map_or("{}", Value::as_str);
        let Ok(Json::Object(mut fields)) = canonical::parse(value) else {
            unreachable!("a Value is a canonical JSON object")
        };
        let Ok(Json::Object(mut header)) = canonical::parse(self.change.header().as_str()) else {
            unreachable!("a Header is a canonical JSON object")
        };
        header.remove("room_id");
        header.remove("key");
        let mut stamp = Members::new();
        stamp.string("carrier", self.carrier.as_str());
        if let Some(signature) = &self.carrier_signature {
            stamp.raw("carrier_signature", signature.to_json());
        }
        stamp.raw("header", Json::Object(header));
        stamp.raw("signature", self.change.signature().to_json());
        let stamp = canonical::parse(&stamp.finish()).expect("written as canonical JSON just now");
        fields.insert(STAMP_FIELD.to_owned(), stamp);
        if !others.is_empty() {
            let list = conflict::list_json(others);
            fields.insert(
                CONFLICT_FIELD.to_owned(),
                canonical::parse(&list).expect("written as canonical JSON"),
            );
        }
        Json::Object(fields).to_string()
    }

    /// Reads the stamp of an item event; `None` if it has none.
    ///
    /// `room_id`, `key` (the `state_key`) and `sender` are the event's.
    /// Signatures are not verified here: [`Self::verify`].
    pub fn read(
        room_id: &RoomId,
        key: &ItemKey,
        sender: &UserId,
        content: &[u8],
    ) -> Result<Option<Self>, StampError> {
        if content.len() > MAX_VALUE_TEXT_BYTES {
            return Err(StampError::Content(None));
        }
        let text = std::str::from_utf8(content).map_err(|_| StampError::Content(None))?;
        if !text.contains(STAMP_FIELD) && !text.contains('\\') {
            return Ok(None);
        }
        let Json::Object(mut fields) =
            canonical::parse(text).map_err(|error| StampError::Content(Some(error)))?
        else {
            return Err(StampError::Content(None));
        };
        let Some(stamp) = fields.remove(STAMP_FIELD) else { return Ok(None) };
        fields.remove(CONFLICT_FIELD);
        let Json::Object(mut stamp) = stamp else { return Err(StampError::Malformed("form")) };
        match stamp.remove("carrier") {
            Some(Json::String(carrier)) if carrier == sender.as_str() => {}
            Some(Json::String(_)) => return Err(StampError::OtherCarrier),
            _ => return Err(StampError::Malformed("carrier")),
        }
        let Some(Json::Object(mut header)) = stamp.remove("header") else {
            return Err(StampError::Malformed("header"));
        };
        header.insert("room_id".into(), Json::String(room_id.to_string()));
        header.insert("key".into(), Json::String(key.to_string()));
        let header =
            Header::parse(Json::Object(header).to_string().as_bytes()).map_err(StampError::Header)?;
        let mut signature = |name: &'static str| {
            let read = |json: Json| serde_json::from_str::<EntrySignature>(&json.to_string());
            stamp.remove(name).map(read).transpose().map_err(|_| StampError::Malformed(name))
        };
        let carrier_signature = signature("carrier_signature")?;
        let entry_signature = signature("signature")?.ok_or(StampError::Malformed("signature"))?;
        let change = change_with(header, entry_signature, fields)?;
        if carrier_signature.is_none() && needs_signature(&change, sender) {
            return Err(StampError::Malformed("carrier_signature"));
        }
        Ok(Some(Self { change, carrier: sender.to_owned(), carrier_signature }))
    }

    /// Proves that the origin made the change and chose this carrier.
    ///
    /// `public_key` gives the raw bytes of the origin's key of that id. `None`
    /// from it makes the stamp unproven: `Ok(false)`.
    pub fn verify<'k>(&self, public_key: impl Fn(&str) -> Option<&'k [u8]>) -> Result<bool, StampError> {
        let Some(key) = public_key(self.change.signature().key_id()) else { return Ok(false) };
        self.change.verify(key).map_err(StampError::Forged)?;
        if let Some(signature) = &self.carrier_signature {
            let Some(key) = public_key(signature.key_id()) else { return Ok(false) };
            signature.verify(&carrier_text(&self.change, &self.carrier), key).map_err(StampError::Forged)?;
        }
        Ok(true)
    }

    /// The change.
    pub fn change(&self) -> &Change {
        &self.change
    }
    /// The change, taken out.
    pub fn into_change(self) -> Change {
        self.change
    }
    /// The sender of the event.
    pub fn carrier(&self) -> &UserId {
        &self.carrier
    }
    /// The id of the key under the carrier's signature, if it has one.
    pub fn carrier_key_id(&self) -> Option<&str> {
        self.carrier_signature.as_ref().map(EntrySignature::key_id)
    }
}

/// Whether the origin must sign that this carrier is its choice.
fn needs_signature(change: &Change, carrier: &UserId) -> bool {
    let author = change.header().author();
    author != carrier || author.server_name() != change.server()
}

/// Joins a stamp's header to the rest of the content.
fn change_with(
    header: Header,
    signature: EntrySignature,
    fields: std::collections::BTreeMap<String, Json>,
) -> Result<Change, StampError> {
    if header.kind() != Kind::Put {
        let bare = fields.is_empty().then_some(()).ok_or(StampError::OtherValue(None));
        return bare
            .map(|()| Change::from_parts(header, signature, None).expect("there is no value to compare"));
    }
    let value = Value::parse(Json::Object(fields).to_string().as_bytes()).map_err(StampError::Value)?;
    Change::from_parts(header, signature, Some(value)).map_err(|error| StampError::OtherValue(Some(error)))
}

fn carrier_text(change: &Change, carrier: &UserId) -> String {
    let mut out = Members::new();
    out.string("carrier", carrier.as_str());
    out.raw("id", format_args!("\"{}\"", change.id()));
    out.finish()
}
