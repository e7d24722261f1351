//! The one mismatch: a county's program that signs a total which is not the total of its rows. What the ministry must do
//! is what it does to every batch: compute the figures from the rows, compare, refuse, and name the partition.

use super::work::spec;
use super::{Country, HOUR, Happening};
use crate::forge::{Batch, forge};

/// The business system whose partition it is.
pub(crate) const SYSTEM: &str = "legacy";

impl Country {
    pub(crate) fn forge(&mut self, county: usize) -> Result<(), String> {
        if self.sites[county].running.is_none() {
            self.heap.push(self.now + HOUR, Happening::Forge(county));
            return Ok(());
        }
        let csv = self.month();
        let (site, spec) = (&self.sites[county], spec(self.plan.every / 1000));
        let message = forge(site.id, self.now, &spec, (SYSTEM, &csv), Batch::add_a_fen);
        let message = message.map_err(|error| format!("{}: the wrong batch: {error}", site.id))?;
        let id = message.attributes.id.clone();
        let Some(running) = &mut self.sites[county].running else { return Err("the forger's county is down".into()) };
        running.core.submit(message).map_err(|error| error.to_string())?;
        self.report.mismatch = Some((id, String::new()));
        self.drive(county)
    }
}
