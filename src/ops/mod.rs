/*! Floor 3: the ops. One file per family; each op has its shape rule, definition, adjoint, lowering and cost on one page. */

pub mod arith;
mod backward;
