//! Sums of whole numbers that stay exact: the engine adds 64-bit integers modulo 2⁶⁴ without a word.
//!
//! `sum` of an integer becomes `sum` of the same value as decimal(20,0), which cannot overflow below 10¹⁸ rows.

use arrow_schema::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, cast};

/// Rewrites sums of integers.
#[derive(Debug)]
pub(crate) struct ExactSums;

impl FunctionRewrite for ExactSums {
    fn name(&self) -> &str {
        "exact sums of integers"
    }

    fn rewrite(
        &self,
        mut expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>, DataFusionError> {
        let arguments = match &mut expr {
            Expr::AggregateFunction(call) if call.func.name() == "sum" => &mut call.params.args,
            Expr::WindowFunction(call) => match &call.fun {
                WindowFunctionDefinition::AggregateUDF(function) if function.name() == "sum" => &mut call.params.args,
                _ => return Ok(Transformed::no(expr)),
            },
            _ => return Ok(Transformed::no(expr)),
        };
        let [argument] = arguments.as_mut_slice() else {
            return Ok(Transformed::no(expr));
        };
        if !argument.get_type(schema)?.is_integer() {
            return Ok(Transformed::no(expr));
        }
        *argument = cast(argument.clone(), DataType::Decimal128(20, 0));
        Ok(Transformed::yes(expr))
    }
}
