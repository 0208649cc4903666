/*! Reverse-mode differentiation: [`Graph::backward`] appends the adjoint of a graph as ordinary ops. */

use super::arith::{Add, Fill};
use super::cast::Cast;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::shape::DType;
use std::collections::HashMap;

impl Graph {
    /// a + b, the sum in float32.
    fn sum(&mut self, a: Value, b: Value) -> Value {
        let to = self.ty(a).dtype;
        if !to.is_half() {
            return self.push1(Add, &[a, b]);
        }
        let [a, b] = [a, b].map(|v| self.push1(Cast { to: DType::F32 }, &[v]));
        let sum = self.push1(Add, &[a, b]);
        self.push1(Cast { to }, &[sum])
    }

    /// Appends the adjoint of everything between `wrt` and the scalar `loss`; returns d(loss)/d(w) for each `w`.
    /// Adjoint ops whose results nobody asked for (a dgrad into the image) are dropped again.
    pub fn backward(&mut self, loss: Value, wrt: &[Value]) -> Result<Vec<Value>> {
        self.check()?;
        self.own(&[loss]).and_then(|()| self.own(wrt))?;
        let forward = self.nodes().to_vec();
        let mut needs = vec![false; self.len()];
        wrt.iter().for_each(|w| needs[w.i()] = true);
        // Prepared state is read in the place of the output that fills it.
        let state: HashMap<Value, Value> = self.prepared().iter().map(|&(state, out)| (out, state)).collect();
        for n in &forward {
            if n.ins.iter().any(|i| needs[i.i()]) {
                for o in &n.outs {
                    needs[o.i()] = true;
                    state.get(o).into_iter().for_each(|s| needs[s.i()] = true);
                }
            }
        }
        let mut d: HashMap<Value, Value> = HashMap::new();
        self.set_adjoint(true);
        self.set_label("loss");
        d.insert(loss, self.push1(Fill { value: 1.0, ty: self.ty(loss) }, &[]));
        for n in forward.iter().rev() {
            let dy: Vec<_> = n.outs.iter().map(|o| d.get(o).or_else(|| d.get(state.get(o)?)).copied()).collect();
            if dy.iter().all(Option::is_none) || !n.outs.iter().any(|o| needs[o.i()]) {
                continue;
            }
            self.set_label(&n.label);
            let dx = n.op.grad(self, n, &dy)?;
            assert_eq!(dx.len(), n.ins.len(), "{}: one gradient slot per input", n.op.name());
            for (i, dx) in n.ins.iter().zip(dx) {
                let (true, Some(dx)) = (needs[i.i()], dx) else { continue };
                let sum = match d.get(i) {
                    Some(&a) => self.sum(a, dx),
                    None => dx,
                };
                d.insert(*i, sum);
            }
        }
        self.set_label("");
        self.set_adjoint(false);
        let grads = wrt
            .iter()
            .map(|w| {
                d.get(w).copied().ok_or_else(|| {
                    Error::job(format!("the loss does not depend on {}", self.name(*w)))
                        .fix("leave it out of the trained parameters")
                })
            })
            .collect::<Result<Vec<_>>>()?;
        self.prune(forward.len(), &grads);
        self.check()?;
        Ok(grads)
    }
}
