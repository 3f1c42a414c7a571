//! Reverse-mode differentiation through a frozen network.
//!
//! A [`Variable`] is a tensor and, where a gradient can reach it, its place on a [`Tape`]. Our operations record how
//! to take a gradient back to their inputs, and only for inputs that lead to a leaf: weights of a frozen model are no
//! inputs, so nothing of their size is ever a gradient. What an operation keeps for that is freed as soon as its turn
//! is over, and [`checkpoint`] keeps nothing of a whole block but its inputs.
//!
//! candle has a tape of its own. It adds each gradient to a tensor of zeros, computes those of frozen operands too and
//! frees nothing until the end, so it is not used.

use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{Result, Tensor, bail};

use super::ops::sum::sum;

/// A tensor on its way through a network.
#[derive(Clone, Debug)]
pub struct Variable {
    tensor: Tensor,
    origin: Option<Origin>,
}

/// Where a variable's gradient is collected.
#[derive(Clone, Debug)]
struct Origin {
    tape: Tape,
    index: usize,
}

/// What is to be done, last first, to take a gradient back to the leaves.
#[derive(Clone, Debug, Default)]
pub struct Tape(Arc<Mutex<Vec<Node>>>);

struct Node {
    /// Where the inputs' gradients are collected; `None` for those that take none.
    inputs: Vec<Option<usize>>,
    /// `None` for a leaf.
    backward: Option<Backward>,
}

/// From the gradient of an operation's result to those of its inputs.
type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

impl From<Tensor> for Variable {
    fn from(tensor: Tensor) -> Self {
        Self { tensor, origin: None }
    }
}

impl From<&Tensor> for Variable {
    fn from(tensor: &Tensor) -> Self {
        tensor.clone().into()
    }
}

impl Variable {
    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The value, without the way back.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Whether a gradient can reach this.
    pub fn is_tracked(&self) -> bool {
        self.origin.is_some()
    }

    /// The result of an operation on `inputs`.
    ///
    /// `backward` takes the gradient of the result, and for each input whether its gradient is wanted; it is kept only
    /// if one is. An input whose gradient is wanted must get one.
    pub fn derived<const N: usize>(
        tensor: Tensor,
        inputs: [&Self; N],
        backward: impl FnOnce(&Tensor, [bool; N]) -> Result<[Option<Tensor>; N]> + Send + 'static,
    ) -> Self {
        let wanted = inputs.map(Self::is_tracked);
        Self::derived_of_many(tensor, &inputs, move |gradient| {
            Ok(backward(gradient, wanted)?.into())
        })
    }

    /// [`Self::derived`] of any number of inputs.
    fn derived_of_many(
        tensor: Tensor,
        inputs: &[&Self],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Self {
        let Some(tape) = inputs.iter().find_map(|input| Some(input.origin.as_ref()?.tape.clone()))
        else {
            return Self { tensor, origin: None };
        };
        let inputs = inputs.iter().map(|input| Some(input.origin.as_ref()?.index)).collect();
        let index = tape.push(Node { inputs, backward: Some(Box::new(backward)) });
        Self { tensor, origin: Some(Origin { tape, index }) }
    }

    /// The same values, whose gradient is summed up by itself before it joins that of other uses, as it is in a
    /// [`checkpoint`]: sums of three numbers have an order.
    pub fn apart(&self) -> Self {
        Self::derived(self.tensor.clone(), [self], |gradient, _| Ok([Some(gradient.clone())]))
    }

    /// Another view of the same values, such as [`Tensor::reshape`] makes: the gradient is viewed back.
    pub fn reshape(&self, shape: impl candle_core::shape::ShapeWithOneHole) -> Result<Self> {
        let dims = self.tensor.dims().to_vec();
        let reshaped = self.tensor.reshape(shape)?;
        Ok(Self::derived(reshaped, [self], move |gradient, _| Ok([Some(gradient.reshape(dims)?)])))
    }
}

impl Tape {
    /// A variable whose gradient is wanted.
    pub fn leaf(&self, tensor: Tensor) -> Variable {
        let index = self.push(Node { inputs: Vec::new(), backward: None });
        Variable { tensor, origin: Some(Origin { tape: self.clone(), index }) }
    }

    /// Takes `gradient`, that of `result`, back to all leaves. The tape is empty afterwards.
    ///
    /// # Errors
    /// A shape that is not the result's, or whatever an operation's own way back reports.
    pub fn backward(self, result: &Variable, gradient: Tensor) -> Result<Gradients> {
        self.backward_seen(result, gradient, &mut |_| {})
    }

    /// [`Self::backward`] that shows each gradient as it arrives at an operation's result or at a leaf.
    pub fn backward_seen(
        self,
        result: &Variable,
        gradient: Tensor,
        seen: &mut dyn FnMut(&Tensor),
    ) -> Result<Gradients> {
        if gradient.dims() != result.tensor.dims() {
            bail!("a gradient of {:?} for a result of {:?}", gradient.dims(), result.tensor.dims());
        }
        let mut nodes = std::mem::take(&mut *self.nodes());
        let mut gradients: Vec<Option<Tensor>> = vec![None; nodes.len()];
        if let Some(origin) = &result.origin {
            gradients[origin.index] = Some(gradient);
        }
        while let Some(node) = nodes.pop() {
            let Some(backward) = node.backward else { continue }; // a leaf keeps its gradient
            let Some(gradient) = gradients[nodes.len()].take() else { continue };
            for (input, gradient) in node.inputs.into_iter().zip(backward(&gradient)?) {
                let Some(gradient) = gradient else { continue };
                seen(&gradient);
                let Some(index) = input else { continue };
                gradients[index] = Some(match gradients[index].take() {
                    Some(total) => sum(&total, &gradient)?,
                    None => gradient,
                });
            }
        }
        Ok(Gradients(gradients))
    }

    fn push(&self, node: Node) -> usize {
        let mut nodes = self.nodes();
        nodes.push(node);
        nodes.len() - 1
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What [`Tape::backward`] has brought to the leaves.
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// The gradient of a leaf; `None` if the result does not depend on it. Each can be taken once.
    pub fn take(&mut self, leaf: &Variable) -> Option<Tensor> {
        self.0.get_mut(leaf.origin.as_ref()?.index)?.take()
    }
}

/// Runs `block` without keeping anything but its inputs; on the way back it runs once more (gradient checkpointing).
///
/// `block` must give the same result each time, and use no tracked variable but its inputs.
pub fn checkpoint(
    inputs: &[&Variable],
    block: impl Fn(&[Variable]) -> super::Result<Variable> + Send + 'static,
) -> super::Result<Variable> {
    let tracked: Vec<bool> = inputs.iter().map(|input| input.is_tracked()).collect();
    let detached: Vec<Variable> = inputs.iter().map(|input| input.tensor().into()).collect();
    let result = block(&detached)?;
    Ok(Variable::derived_of_many(result.into_tensor(), inputs, move |gradient| {
        let tape = Tape::default();
        let leaf = |(input, tracked)| match tracked {
            true => tape.leaf(Variable::into_tensor(input)),
            false => input,
        };
        let leaves: Vec<Variable> = detached.into_iter().zip(tracked).map(leaf).collect();
        let result = block(&leaves).map_err(candle_core::Error::wrap)?;
        let mut gradients = tape.backward(&result, gradient.clone())?;
        Ok(leaves.iter().map(|leaf| gradients.take(leaf)).collect())
    }))
}
