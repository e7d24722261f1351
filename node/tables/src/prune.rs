//! Leaving out parts that a filter rules out, by comparing their authority, month or system with constants.
//!
//! Pruning may keep too much, never too little: whatever it does not understand may match.

use crate::manifest::{AUTHORITY, MONTH, Part, SYSTEM};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use std::cmp::Ordering;

/// Whether rows of the part can pass the filter.
pub(crate) fn may_match(part: &Part, filter: &Expr) -> bool {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            may_match(part, left) && may_match(part, right)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            may_match(part, left) || may_match(part, right)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let as_written = value_of(part, left).zip(text_of(right)).map(|(v, t)| holds(v.as_str().cmp(t), *op));
            let turned = || value_of(part, right).zip(text_of(left)).map(|(v, t)| holds(t.cmp(v.as_str()), *op));
            as_written.or_else(turned).unwrap_or(true)
        }
        Expr::InList(InList { expr, list, negated: false }) => match value_of(part, expr) {
            Some(value) => list.iter().any(|item| text_of(item).is_none_or(|text| text == value)),
            None => true,
        },
        _ => true,
    }
}

/// The part's value of a system column.
fn value_of(part: &Part, expr: &Expr) -> Option<String> {
    let Expr::Column(column) = expr else {
        return None;
    };
    match column.name.as_str() {
        AUTHORITY => Some(part.key.authority.to_string()),
        MONTH => Some(part.key.month.to_string()),
        SYSTEM => Some(part.key.system.clone()),
        _ => None,
    }
}

/// A constant text.
fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}

fn holds(order: Ordering, operator: Operator) -> bool {
    match operator {
        Operator::Eq => order.is_eq(),
        Operator::NotEq => order.is_ne(),
        Operator::Lt => order.is_lt(),
        Operator::LtEq => order.is_le(),
        Operator::Gt => order.is_gt(),
        Operator::GtEq => order.is_ge(),
        _ => true,
    }
}
