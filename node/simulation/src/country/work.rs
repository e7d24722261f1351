//! What the country's people and programs do: the ministry releases, the counties write their month's rows.

use super::{Country, HOUR, Happening};
use jincai_dictionary::ReleaseOrder;
use jincai_storage::{Spec, SpecColumn};
use jincai_types::{AuthorityId, ColumnType, Date};

/// Codes in the first release.
const CODES: u64 = 5_200;
/// Codes that get another name, appear and vanish with each release after the first.
const RENAMED: u64 = 10;
const ADDED: u64 = 8;
const REMOVED: u64 = 6;
/// Codes below this number stay, and rows name them.
const STAYING: u64 = 4_000;
/// After so many days the first codes get another name again.
const TURNS: u64 = STAYING / RENAMED;
/// Spending units of a county.
const UNITS: u64 = 40;
pub(crate) const TABLE: &str = "pay";
const SPEC: &str = "mof.payments";
const SET: &str = "UNIT";

/// The code set as it stands on a day.
fn codes(day: u64) -> String {
    let mut csv = String::from("code,name,level,parent\n");
    let (gone, last) = (STAYING + day * REMOVED, CODES + day * ADDED);
    for code in (0..STAYING).chain(gone..last) {
        // The codes whose turn it was last have the day's name.
        let named = (1..=day).rev().take(TURNS as usize).find(|d| code / RENAMED == d % TURNS);
        let name = named.map_or_else(String::new, |d| format!(" as of day {d}"));
        csv += &format!("{code:05},spending unit {code}{name},1,\n");
    }
    csv
}

/// The spec that the ministry releases.
pub(crate) fn spec(every_seconds: u64) -> Spec {
    let column = |name: &str, kind, key, code_set: Option<&str>| SpecColumn {
        name: name.into(),
        kind,
        required: true,
        key,
        code_set: code_set.map(Into::into),
        title: String::new(),
    };
    Spec {
        id: SPEC.into(),
        version: 1,
        title: "payments of a month".into(),
        table: TABLE.into(),
        columns: vec![
            column("line_id", ColumnType::Text, true, None),
            column("pay_date", ColumnType::Date, false, None),
            column("unit", ColumnType::Text, false, Some(SET)),
            column("amount", ColumnType::Amount, false, None),
        ],
        month_of: "pay_date".into(),
        totals: vec!["amount".into()],
        collector: AuthorityId::MINISTRY,
        every_seconds,
        line: "national".into(),
        release: 1,
    }
}

impl Country {
    pub(crate) fn release(&mut self, day: u64) -> Result<(), String> {
        let now = self.now;
        let Some(running) = &mut self.sites[0].running else { return Err("the ministry is down".into()) };
        let told = |error: jincai_core::Error| format!("release of day {day}: {error}");
        let names = ("national", SET, "spending units");
        running.core.import(now, &running.log, names, &mut codes(day).as_bytes()).map_err(told)?;
        let effective_from = Date::new(2026, 1, 1).ok_or("a date that exists")?;
        let order = ReleaseOrder { line: "national", effective_from, note: "", reason: None };
        let release = running.core.release(now, &running.log, order).map_err(told)?;
        let summary = release.summary;
        let operations = summary.added + summary.removed + summary.changed;
        self.report.releases += 1;
        self.report.codes = release.count;
        if day > 0 {
            let fewest = self.report.operations;
            self.report.operations = if fewest == 0 { operations } else { fewest.min(operations) };
        }
        self.drive(0)
    }

    pub(crate) fn release_spec(&mut self) -> Result<(), String> {
        let (now, spec) = (self.now, spec(self.plan.every / 1000));
        let Some(running) = &mut self.sites[0].running else { return Err("the ministry is down".into()) };
        running.core.release_spec(now, &running.log, spec).map_err(|error| format!("release of the spec: {error}"))?;
        self.drive(0)
    }

    /// A month's rows of a county.
    pub(crate) fn month(&mut self) -> String {
        let mut csv = String::from("line_id,pay_date,unit,amount\n");
        let first = self.random.below(STAYING - UNITS);
        for line in 0..self.random.between(200, 240) {
            let (day, unit) = (self.random.between(1, 31), first + self.random.below(UNITS));
            let (yuan, fen) = (self.random.below(1_000_000), self.random.below(100));
            csv += &format!("L{line:04},2026-01-{day:02},{unit:05},{yuan}.{fen:02}\n");
        }
        csv
    }

    /// A county's program writes the month; in the dark, and before the spec is there, it tries again later.
    pub(crate) fn write_rows(&mut self, county: usize) -> Result<(), String> {
        let (now, csv) = (self.now, self.month());
        let site = &mut self.sites[county];
        let ready = site.running.as_mut().filter(|running| running.core.rooms().storage.spec_of(TABLE).is_ok());
        let Some(running) = ready else {
            self.heap.push(now + HOUR, Happening::Write(county));
            return Ok(());
        };
        let written = running.core.write_rows(now, &running.log, (TABLE, "budget"), &mut csv.as_bytes(), true);
        let report = written.map_err(|error| format!("{}: rows: {error}", site.id))?;
        if report.refused > 0 {
            return Err(format!("{}: good rows were refused: {:?}", site.id, report.refusals.first()));
        }
        self.drive(county)
    }
}
