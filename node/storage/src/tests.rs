//! Standard storage through its public doors, with an in-memory stand-in for the journal.

use super::*;
use jincai_exchange::record::Cause;
use jincai_exchange::{Decision, Delivery, Outgoing, Parts, Place, RefusalNote, Room};
use jincai_types::{AuthorityId, ColumnType, Destination, Digest, Epoch, PartRecord, Priority, TableEffect};
use proptest::prelude::*;
use std::collections::BTreeMap;

const HEADER: &str = "line_id,pay_date,payee,amount,currency\n";

fn id(text: &str) -> AuthorityId {
    text.parse().expect("test id")
}

fn spec() -> Spec {
    let column = |name: &str, kind, required, key, code_set: Option<&str>| SpecColumn {
        name: name.into(),
        kind,
        required,
        key,
        code_set: code_set.map(Into::into),
        title: String::new(),
    };
    Spec {
        id: "mof.payments".into(),
        version: 1,
        title: "payments".into(),
        table: "payments".into(),
        columns: vec![
            column("line_id", ColumnType::Text, true, true, None),
            column("pay_date", ColumnType::Date, true, false, None),
            column("payee", ColumnType::Text, false, false, None),
            column("amount", ColumnType::Amount, true, false, None),
            column("currency", ColumnType::Text, true, false, Some("CURRENCY")),
        ],
        month_of: "pay_date".into(),
        totals: vec!["amount".into()],
        collector: id("000000000"),
        every_seconds: 60,
        line: "national".into(),
        release: 1,
    }
}

/// A room and the records that its effects went into.
struct Node {
    storage: Storage,
    records: BTreeMap<u64, Vec<u8>>,
}

impl Node {
    fn new(authority: &str) -> Self {
        let mut node = Self { storage: Storage::new(id(authority)), records: BTreeMap::new() };
        let effect = node.storage.release_spec(spec(), 0).expect("a good spec").effect;
        node.apply(&effect);
        node
    }

    fn apply(&mut self, effect: &[u8]) {
        // A record has something before the effect, as the exchange's do.
        let number = self.records.len() as u64 + 1;
        let payload = [b"head".as_slice(), effect].concat();
        self.records.insert(number, payload);
        self.storage.apply(&Place { number, offset: 4, cause: None }, effect).expect("applies");
    }

    fn read(&self, at: &PartRecord) -> Result<Vec<u8>, Error> {
        let record = self.records.get(&at.record).expect("the record is there");
        let bytes = record[at.start as usize..(at.start + at.length) as usize].to_vec();
        assert_eq!(jincai_crypto::sha256(&bytes), at.digest);
        Ok(bytes)
    }

    fn write(&mut self, csv: &str, all_or_nothing: bool) -> Result<WriteReport, Error> {
        let judged = judge(&spec(), &mut csv.as_bytes(), &|set, code| set == "CURRENCY" && code == "GBP")?;
        let (effect, report) = self.storage.write("payments", "pay", judged, all_or_nothing, &|at| self.read(at))?;
        if let Some(effect) = effect {
            self.apply(&effect);
        }
        Ok(report)
    }

    fn collect(&mut self, now: u64) -> Vec<Outgoing> {
        let records = std::mem::take(&mut self.records);
        let read =
            |at: &PartRecord| Ok(records[&at.record][at.start as usize..(at.start + at.length) as usize].to_vec());
        let staged = self.storage.collect(now, false, &|_| true, &read).expect("collects");
        self.records = records;
        staged
            .into_iter()
            .flat_map(|s| {
                self.apply(&s.effect);
                s.messages
            })
            .collect()
    }

    fn receive(&mut self, message: &Outgoing, origin: &str) -> Decision {
        struct NoParts;
        impl Parts for NoParts {
            fn part(&self, _: &Digest) -> Option<Vec<u8>> {
                None
            }
        }
        let lane = jincai_types::Lane { origin: id(origin), destination: message.destination, class: Priority::Record };
        let delivery = Delivery {
            lane,
            epoch: Epoch::default(),
            sequence: 1,
            attributes: &message.attributes,
            payload: &message.payload,
            commitment: &[],
            salt: &[],
            record: 1,
            index: 0,
        };
        let decision = self.storage.decide(0, &delivery, &NoParts);
        if let Decision::Apply { effect, .. } = &decision {
            self.apply(effect);
        }
        decision
    }
}

#[test]
fn bad_rows_are_named_and_the_rest_written_or_nothing() {
    let csv = format!(
        "{HEADER}1,2021-01-02,P1,12.50,GBP\n2,2021-02-30,P1,1,GBP\n3,2021-01-03,P1,1.234,GBP\n4,2021-01-03,P1,1,XXX\n\
         5,,P1,1,GBP\n1,2021-01-05,P1,1,GBP\n6,2021-01-03,P1,(250.00),GBP\n7,2021-01-03,P1,1\n8,2021-02-03,,-250.00,GBP\n"
    );
    let mut node = Node::new("370502000");
    let report = node.write(&csv, true).expect("judged");
    assert_eq!((report.accepted, report.refused), (0, 7));
    assert_eq!(node.storage.parts().count(), 0);
    let report = node.write(&csv, false).expect("judged");
    assert_eq!((report.accepted, report.refused), (2, 7));
    let named: Vec<(u64, &str)> = report.refusals.iter().map(|r| (r.line, r.column.as_str())).collect();
    let wanted = [(3, "pay_date"), (4, "amount"), (5, "currency"), (6, "pay_date"), (7, ""), (8, "amount"), (9, "")];
    assert_eq!(named, wanted);
    let sums: Vec<&str> = node.storage.parts().map(|(_, p)| p.totals.sums[0].1.as_str()).collect();
    assert_eq!(sums, ["1250", "-25000"]);
}

#[test]
fn files_of_the_wrong_shape_are_refused_whole() {
    let mut node = Node::new("370502000");
    for bad in [
        "",
        "line_id,pay_date,payee,amount\n",
        "line_id,pay_date,payee,amount,currency,extra\n",
        "line_id,pay_date,payee,amount,amount\n",
        "line_id;pay_date;payee;amount;currency\n",
    ] {
        assert!(matches!(node.write(bad, false), Err(Error::File { line: 1, .. })), "{bad}");
    }
    let odd =
        format!("\u{feff}{HEADER}1,2021-01-02,\"=cmd|' /C calc'!A0 \u{202e}\",1,GBP\n2,2021-01-02,a\u{0}b,1,GBP\n");
    let report = node.write(&odd, false).expect("a byte-order mark is no fault");
    assert_eq!((report.accepted, report.refused), (1, 1), "formulas are text here; control characters are not");
}

#[test]
fn a_collected_partition_lands_once_and_equals_its_source() {
    let (mut county, mut ministry) = (Node::new("370502000"), Node::new("000000000"));
    county.write(&format!("{HEADER}1,2021-01-02,P1,12.50,GBP\n2,2021-02-03,P2,7,GBP\n"), true).expect("written");
    let messages = county.collect(60_000);
    assert_eq!(messages.len(), 2);
    for message in &messages {
        assert!(matches!(ministry.receive(message, "370502000"), Decision::Apply { .. }));
        let again = ministry.receive(message, "370502000");
        assert!(matches!(again, Decision::Apply { .. }), "the same version with the same figures changes nothing");
        let mut other: effect::Batch = jincai_types::decode("batch", &message.payload, 1 << 20).expect("reads");
        other.totals.rows += 1;
        let other = Outgoing { payload: jincai_types::encode(&other), ..message.clone() };
        let Decision::Refuse(stale) = ministry.receive(&other, "370502000") else { panic!("other figures") };
        assert_eq!(stale.code, "JC-1511");
        assert!(matches!(ministry.receive(message, "370522000"), Decision::Refuse(_)), "not its sender's");
    }
    assert!(ministry.storage.reconcile(&|at| ministry.read(at)).expect("reads").iter().all(|l| l.equal));
    assert!(county.collect(61_000).is_empty(), "not due");
    county.write(&format!("{HEADER}2,2021-02-03,P2,8,GBP\n"), true).expect("corrected");
    let messages = county.collect(130_000);
    assert_eq!(messages.len(), 1, "only the corrected partition travels");
    assert_eq!(messages[0].attributes.id, "370502000/payments/2021-02/pay@2");
    assert!(matches!(ministry.receive(&messages[0], "370502000"), Decision::Apply { .. }));
    let effects = ministry.storage.take_effects();
    assert!(matches!(effects.last(), Some(TableEffect::SetPart { version: 2, rows: 1, .. })));
}

#[test]
fn a_batch_that_is_not_what_its_source_signed_is_refused_by_figure() {
    let (mut county, mut ministry) = (Node::new("370502000"), Node::new("000000000"));
    county.write(&format!("{HEADER}1,2021-01-02,P1,12.50,GBP\n"), true).expect("written");
    let message = county.collect(60_000).remove(0);
    let batch: effect::Batch = jincai_types::decode("batch", &message.payload, 1 << 20).expect("reads");
    let lie = |change: &dyn Fn(&mut effect::Batch)| {
        let mut batch = batch.clone();
        change(&mut batch);
        Outgoing { payload: jincai_types::encode(&batch), ..message.clone() }
    };
    let mut refused = |message: &Outgoing, words: &str| {
        let Decision::Refuse(refusal) = ministry.receive(message, "370502000") else { panic!("{words}: accepted") };
        assert!(refusal.reason.contains(words), "{}", refusal.reason);
    };
    refused(&lie(&|b| b.totals.rows = 2), "number of rows");
    refused(&lie(&|b| b.totals.sums[0].1 = "1251".into()), "sum of amount");
    refused(&lie(&|b| b.totals.digest = Digest::ZERO), "digest");
    refused(&lie(&|b| b.part.month.month = 2), "another month");
    refused(&lie(&|b| b.rows = zstd::encode_all(&vec![0u8; 70 << 20][..], 1).expect("zips").into()), "64 MiB");
    refused(&lie(&|b| b.spec = "other".into()), "not in force");
}

#[test]
fn only_a_superior_releases_specs_and_only_the_collector_refuses_batches() {
    let (mut county, mut ministry) = (Node::new("370502000"), Node::new("000000000"));
    let next = Spec { version: 2, title: "mine".into(), ..spec() };
    let message = county.storage.release_spec(next, 0).expect("a good spec").messages.remove(0);
    let sideways = Outgoing { destination: Destination::Authority(id("000000000")), ..message };
    assert!(matches!(ministry.receive(&sideways, "370502000"), Decision::Refuse(r) if r.code == "JC-1501"));
    county.write(&format!("{HEADER}1,2021-01-02,P1,12.50,GBP\n"), true).expect("written");
    let batch = county.collect(60_000).remove(0);
    let note = refusal(&batch, "JC-1508");
    assert!(county.storage.refused(id("370522000"), &note).is_none(), "a stranger's word");
    let effect = county.storage.refused(id("000000000"), &note).expect("the collector's word");
    county.apply(&effect);
    assert!(county.storage.parts().all(|(_, p)| matches!(p.state, PartState::Refused(_))));
}

/// Queries once went on to show the old number until the next change, or the next start.
#[test]
fn a_partition_that_gets_the_next_number_is_shown_under_it() {
    let mut county = Node::new("370502000");
    county.write(&format!("{HEADER}1,2021-01-02,P1,12.50,GBP\n"), true).expect("written");
    let batch = county.collect(60_000).remove(0);
    let note = refusal(&batch, "JC-1511");
    let effect = county.storage.refused(id("000000000"), &note).expect("the collector's word");
    county.storage.take_effects();
    county.apply(&effect);
    let shown = county.storage.take_effects();
    assert!(matches!(&shown[..], [TableEffect::SetPart { version: 2, rows: 1, .. }]), "{shown:?}");
    county.apply(&effect);
    assert!(county.storage.take_effects().is_empty(), "another version than the one refused");
}

/// What a collector says to a batch that it does not take.
fn refusal(batch: &Outgoing, code: &str) -> RefusalNote {
    let lane = "370502000>000000000/record".parse().expect("lane");
    RefusalNote {
        cause: Cause { lane, epoch: Epoch::default(), sequence: 1 },
        id: batch.attributes.id.clone(),
        kind: batch.attributes.kind.clone(),
        subject: batch.attributes.subject.clone(),
        code: code.into(),
        reason: "differs".into(),
    }
}

#[test]
fn specs_that_cannot_be_carried_out_are_refused() {
    let node = Node::new("000000000");
    let wrong = |change: &dyn Fn(&mut Spec)| {
        let mut spec = Spec { version: 2, ..spec() };
        change(&mut spec);
        assert!(matches!(node.storage.release_spec(spec, 0), Err(Error::Spec { .. })));
    };
    assert!(node.storage.release_spec(Spec { version: 2, title: "better".into(), ..spec() }, 0).is_ok());
    wrong(&|s| s.version = 3);
    wrong(&|s| s.table = "Payments; DROP TABLE x".into());
    wrong(&|s| s.columns.clear());
    wrong(&|s| s.month_of = "amount".into());
    wrong(&|s| s.totals = vec!["payee".into()]);
    wrong(&|s| s.columns[0].key = false);
    wrong(&|s| s.every_seconds = 0);
    wrong(&|s| s.columns.truncate(4));
    wrong(&|s| s.id = "other".into());
}

proptest! {
    #[test]
    fn any_file_is_judged_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _seen = judge(&spec(), &mut bytes.as_slice(), &|_, _| true).is_ok();
        let body = [HEADER.as_bytes(), &bytes].concat();
        let _seen = judge(&spec(), &mut body.as_slice(), &|_, _| true).is_ok();
    }

    #[test]
    fn rows_survive_wire_and_arrow(amounts in proptest::collection::vec(-99_999_999_999_i64..99_999_999_999, 1..50)) {
        let mut csv = String::from(HEADER);
        for (n, fen) in amounts.iter().enumerate() {
            csv += &format!("{n:05},2021-01-02,{},{},GBP\n", if n % 3 == 0 { "" } else { "payee 甲" }, jincai_types::format_fen(i128::from(*fen)));
        }
        let judged = judge(&spec(), &mut csv.as_bytes(), &|_, _| true).expect("judged");
        let rows = judged.months.into_values().next().expect("one month");
        let ipc = rows::to_ipc(&spec(), rows.values()).expect("writes");
        prop_assert_eq!(&rows::from_ipc(&spec(), &ipc).expect("reads"), &rows);
        let wire = rows::to_wire(rows.values());
        let back = rows::from_wire(&spec(), &wire).expect("reads");
        prop_assert_eq!(back.iter().collect::<Vec<_>>(), rows.values().collect::<Vec<_>>());
        let sum: i128 = amounts.iter().map(|a| i128::from(*a)).sum();
        prop_assert_eq!(&rows::totals(&spec(), rows.values()).sums[0].1, &sum.to_string());
    }

    #[test]
    fn altered_rows_never_pass_for_the_same(bit in any::<prop::sample::Index>()) {
        let csv = format!("{HEADER}1,2021-01-02,P1,12.50,GBP\n2,2021-01-02,P2,7,GBP\n");
        let judged = judge(&spec(), &mut csv.as_bytes(), &|_, _| true).expect("judged");
        let rows: Vec<_> = judged.months.into_values().flat_map(BTreeMap::into_values).collect();
        let signed = rows::totals(&spec(), rows.iter());
        let mut wire = rows::to_wire(rows.iter());
        let bit = bit.index(wire.len() * 8);
        wire[bit / 8] ^= 1 << (bit % 8);
        if let Ok(altered) = rows::from_wire(&spec(), &wire) {
            prop_assert!(altered == rows || rows::totals(&spec(), altered.iter()) != signed);
        }
    }
}
