//! The country, scaled down: everything arrives, and the one wrong batch is found.

use jincai_simulation::{CountryOptions, country};

fn check(options: &CountryOptions) {
    let report = country(options);
    println!("{report:#?}");
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
    assert!(report.operations >= 20 && report.codes >= 5_000 && report.breaks > 0, "{report:#?}");
    assert_eq!(report.releases, options.days);
    assert_eq!(report.parts, report.levels[2] as u64);
    assert!(report.mismatch.is_some_and(|(part, why)| part.contains("legacy") && why.contains("sum of amount")));
}

#[test]
fn a_small_country_comes_through_a_week() {
    check(&CountryOptions { nodes: 120, days: 8, seed: 1 });
}
