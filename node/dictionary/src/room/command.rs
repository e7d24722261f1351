//! The issuer's commands. Each returns an effect that the caller journals and applies before the next command; the room
//! itself does not change. A command whose effect is never applied leaves at most an unused blob.

use super::{Dictionary, Draft, Effect};
use crate::compare::{Summary, differences};
use crate::delta::DeltaWriter;
use crate::import::import;
use crate::release::{Release, body_of, messages};
use crate::shrink::ShrinkGuard;
use crate::{Error, ImportReport};
use jincai_exchange::Outgoing;
use jincai_types::{AuthorityId, Date, Millis};
use std::io::Read;

/// What the issuer wants released.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseOrder<'a> {
    /// The line whose draft becomes a release.
    pub line: &'a str,
    /// From which day it is in force.
    pub effective_from: Date,
    /// What to say about it; may be empty.
    pub note: &'a str,
    /// Why it removes much; wanted only if it does.
    pub reason: Option<&'a str>,
}

/// A release that was made but is not yet in the journal.
#[derive(Debug)]
pub struct Staged {
    /// For [`jincai_exchange::Room::apply`], in the same commit as the messages.
    pub effect: Vec<u8>,
    /// Bulk parts and manifest, in the order in which they are to be submitted.
    pub messages: Vec<Outgoing>,
    /// The release.
    pub release: Release,
}

impl Dictionary {
    /// Replaces a code set of a line's draft by the rows of a CSV file (`code,name,level,parent`), all or nothing. The
    /// draft's other code sets stay; a line without a draft starts from its last release.
    pub fn import(
        &self,
        line: &str,
        set: &str,
        name: &str,
        rows: &mut dyn Read,
        own: AuthorityId,
    ) -> Result<(Vec<u8>, ImportReport), Error> {
        self.check_issuer(line, own)?;
        let base = match self.draft(line)? {
            Some(draft) => draft,
            None => self.base(line)?,
        };
        let (written, report) = import(&base, set, name, rows, &*self.blobs)?;
        let draft = Draft { blob: written.blob, root: written.root, count: written.count };
        Ok((Effect::Draft { line: line.into(), draft }.to_bytes(), report))
    }

    /// Gives a line's draft up.
    pub fn discard(&self, line: &str) -> Result<Vec<u8>, Error> {
        match self.lines.get(line).and_then(|line| line.draft) {
            Some(_) => Ok(Effect::Discarded { line: line.into() }.to_bytes()),
            None => Err(Error::NothingToRelease { line: line.into() }),
        }
    }

    /// Makes a line's draft its next release.
    pub fn release(&self, order: ReleaseOrder<'_>, own: AuthorityId, now: Millis) -> Result<Staged, Error> {
        let line = order.line;
        self.check_issuer(line, own)?;
        let nothing = || Error::NothingToRelease { line: line.into() };
        let draft = self.lines.get(line).and_then(|line| line.draft).ok_or_else(nothing)?;
        let base = self.base(line)?;
        if draft.root == base.root() {
            return Err(nothing());
        }
        let new = self.open_blob(&draft.blob)?;
        let number = self.releases(line).len() as u64 + 1;
        let mut summary = Summary::default();
        let mut writer = DeltaWriter::new(line, number);
        let operations = differences(&base, &new).map(|difference| {
            let difference = difference?;
            summary.count(&difference);
            Ok(difference.into_operation())
        });
        for operation in ShrinkGuard::new(&base, order.reason, operations) {
            writer.push(&operation?)?;
        }
        let (body, parts) = body_of(writer.finish()?);
        let release = Release {
            line: line.into(),
            issuer: own,
            number,
            parent: base.root(),
            root: draft.root,
            count: draft.count,
            effective_from: order.effective_from,
            note: order.note.into(),
            reason: order.reason.map(Into::into),
            summary,
            body,
        };
        release.check()?;
        let effect = Effect::released(&release, draft.blob).to_bytes();
        Ok(Staged { effect, messages: messages(&release, parts, now), release })
    }
}
