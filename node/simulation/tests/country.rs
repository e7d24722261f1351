//! The country, scaled down: everything arrives, and the one wrong batch is found.

use jincai_simulation::{CountryOptions, ReleaseOptions, country, release};

fn check(options: &CountryOptions) {
    let report = country(options);
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
    assert!(report.operations >= 20 && report.codes >= 5_000 && report.breaks > 0, "{report:#?}");
    assert_eq!(report.releases, options.days);
    assert_eq!(report.parts, report.levels[2] as u64);
    // A link that breaks in mid-batch gets it again; nothing else does.
    for level in report.downward.levels {
        let once = report.downward.sealed_bytes * level.links;
        assert!((once..once + once / 5).contains(&level.release_bytes), "{:#?}", report.downward);
    }
    assert!(report.mismatch.is_some_and(|(part, why)| part.contains("legacy") && why.contains("sum of amount")));
}

#[test]
fn a_small_country_comes_through_a_week() {
    check(&CountryOptions { nodes: 120, days: 8, seed: 1 });
}

/// Slots once made nine tenths of all frames and grew with every hour: each was offered again for ever, and while one
/// province was away every node of the country was told, and answered, again and again.
#[test]
fn a_province_that_is_away_does_not_keep_the_others_busy() {
    let options = CountryOptions { nodes: 120, days: 8, seed: 2 };
    let report = country(&options);
    assert!(report.frames < 200 * options.nodes as u64, "{report:#?}");
}

#[test]
fn a_seed_repeats_itself() {
    let options = CountryOptions { nodes: 40, days: 2, seed: 3 };
    let once = country(&options);
    assert_eq!(once, country(&options));
    assert_ne!(once.trace, country(&CountryOptions { seed: 4, ..options }).trace);
}

/// Over every link once: what stands below it makes no difference.
#[test]
fn a_release_crosses_each_link_once() {
    let options = ReleaseOptions { counties: 40, codes: 20_000, seed: 1 };
    let report = release(&options);
    assert!(report.broken.is_empty(), "{:#?}", report.broken);
    let ([provinces, cities, counties], down) = (report.levels, report.downward);
    assert!(provinces >= 1 && cities >= 4 && counties == 40, "{:?}", report.levels);
    assert_eq!(report.applied, provinces + cities + counties);
    assert!(down.sealed_batches > 1 && down.sealed_bytes > 64 << 10, "one of several parts: {down:?}");
    for level in down.levels {
        assert_eq!(level.release_frames, down.sealed_batches * level.links, "{level:?}");
        let once = down.sealed_bytes * level.links;
        assert!(once < level.release_bytes && level.release_bytes < once + once / 100, "{level:?} of {down:?}");
    }
}
