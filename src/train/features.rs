/*! Frozen towers run once instead of in every step: features of every picture, per member of the model. */

use super::params::Initial;
use crate::data::Pictures;
use crate::device::{Data, Device, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::models::Config;
use crate::nn::{Mode, Net};
use crate::plan::Options;
use crate::progress::Progress;
use crate::shape::{DType, Type};
use crate::train::checkpoint::Extra;
use std::borrow::Cow;

/// Features of every picture for each member: width, then one row after another; and the towers' weights, to be stored
/// with the head that is trained on them.
pub struct Extracted {
    pub members: Vec<(usize, Vec<f32>)>,
    pub towers: Extra<'static>,
}

/// Runs the towers of `config` over `pictures`.
pub fn extract(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    batch: usize,
    device: Box<dyn Device>,
    progress: &dyn Progress,
) -> Result<(Extracted, Box<dyn Device>)> {
    let mut g = Graph::default();
    let side = config.image;
    let image = g.input("image", Type::new(DType::U8, &[batch, side, side, 3]));
    let mut net = Net::new(&mut g, Mode::Eval);
    let features: Vec<Value> = config.members().iter().map(|m| config.extract(&mut net, m, image)).collect();
    net.take_penalty();
    let mut session = Session::new(g, &[&features], Options::default(), device)?;
    let params: Vec<Value> = session.graph.of_kind(Kind::Param).collect();
    let members = config.members();
    let prefixes: Vec<&str> = members.iter().map(|m| m.prefix.as_str()).collect();
    initial.check(&session, &prefixes, &config.towers, true)?;
    for prefix in &prefixes {
        initial.fill(&mut session, &params, prefix, &[])?;
    }
    let mut all: Vec<(usize, Vec<f32>)> = features.iter().map(|f| (session.graph.ty(*f).row(), vec![])).collect();
    let rows: Vec<usize> = (0..pictures.len()).collect();
    let mut squares = vec![0; batch * side * side * 3];
    progress.start("features", pictures.len() as u64);
    for chunk in rows.chunks(batch) {
        if progress.stopped() {
            progress.done();
            return Err(Error::interrupted("stopped while computing features"));
        }
        pictures.gather(chunk, &mut squares[..chunk.len() * side * side * 3]);
        session.write(image, Data::U8(&squares))?;
        session.run(0)?;
        for (v, (width, all)) in features.iter().zip(&mut all) {
            all.extend_from_slice(&session.read(*v)?[..chunk.len() * *width]);
        }
        chunk.iter().for_each(|_| progress.inc());
    }
    progress.done();
    let towers = params
        .iter()
        .map(|v| Ok((session.graph.name(*v).into(), session.graph.dims(*v).into(), Cow::Owned(session.read(*v)?))))
        .collect::<Result<_>>()?;
    Ok((Extracted { members: all, towers }, session.into_device()))
}
