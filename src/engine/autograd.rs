//! Reverse-mode differentiation through a frozen network.
//!
//! A [`Variable`] is a tensor and, if a gradient can reach it, its node on a [`Tape`]. Our operations record the
//! backward pass to their inputs, and only to those that lead to a leaf. Weights of a frozen model are not inputs, so
//! no gradient has their size. The backward pass frees what an operation has kept as soon as the operation is done, and
//! [`checkpoint`] keeps only the inputs of a whole block.
//!
//! We do not use candle's own tape: it adds each gradient to a tensor of zeros, also computes the gradients of frozen
//! operands, and frees nothing until the end.

use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{Result, Tensor, bail};

use super::ops::sum::plus;

/// A tensor, and its node on the tape if a gradient can reach it.
#[derive(Clone, Debug)]
pub struct Variable {
    tensor: Tensor,
    origin: Option<Origin>,
}

/// The node that collects a variable's gradient.
#[derive(Clone, Debug)]
struct Origin {
    tape: Tape,
    index: usize,
}

/// The operations between leaves and result, in the order of the forward pass.
#[derive(Clone, Debug, Default)]
pub struct Tape(Arc<Mutex<Vec<Node>>>);

struct Node {
    /// The nodes of the inputs; `None` for those that take no gradient.
    inputs: Vec<Option<usize>>,
    /// `None` for a leaf.
    backward: Option<Backward>,
}

/// Takes the gradient of an operation's result to those of its inputs.
enum Backward {
    Apart(Apart),
    Adding(Adding),
}

/// The gradients of the inputs, by one operation alone.
type Apart = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send>;
/// The gradient of the only input, plus what it is so far.
type Adding = Box<dyn FnOnce(&Tensor, Option<&Tensor>) -> Result<Tensor> + Send>;

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

    /// The value alone.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Whether a gradient can reach this.
    pub fn is_tracked(&self) -> bool {
        self.origin.is_some()
    }

    /// The result of an operation on `inputs`.
    ///
    /// `backward` is given the gradient of the result and, for each input, whether its gradient is wanted. It must
    /// return every gradient that is wanted. If none is, `backward` is dropped at once.
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

    /// [`Self::derived`] of one input, whose `backward` adds its gradient to what that of the input is so far. A kernel
    /// that writes the gradient anyway does that for less than a sum of its own.
    pub fn derived_adding(
        tensor: Tensor,
        input: &Self,
        backward: impl FnOnce(&Tensor, Option<&Tensor>) -> Result<Tensor> + Send + 'static,
    ) -> Self {
        Self::of_node(tensor, &[input], || Backward::Adding(Box::new(backward)))
    }

    /// [`Self::derived`] of any number of inputs.
    fn derived_of_many(
        tensor: Tensor,
        inputs: &[&Self],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Self {
        Self::of_node(tensor, inputs, || Backward::Apart(Box::new(backward)))
    }

    fn of_node(tensor: Tensor, inputs: &[&Self], backward: impl FnOnce() -> Backward) -> Self {
        let Some(tape) = inputs.iter().find_map(|input| Some(input.origin.as_ref()?.tape.clone()))
        else {
            return Self { tensor, origin: None };
        };
        let inputs = inputs.iter().map(|input| Some(input.origin.as_ref()?.index)).collect();
        let index = tape.push(Node { inputs, backward: Some(backward()) });
        Self { tensor, origin: Some(Origin { tape, index }) }
    }

    /// The same values as a node of its own.
    ///
    /// The gradients of its uses are added to each other first and to those of `self` afterwards, as in a
    /// [`checkpoint`]. The order matters, since floating-point addition is not associative.
    pub fn apart(&self) -> Self {
        Self::derived(self.tensor.clone(), [self], |gradient, _| Ok([Some(gradient.clone())]))
    }

    /// The same values in another shape, as of [`Tensor::reshape`].
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

    /// Takes `gradient`, the gradient of `result`, to all leaves. The tape is empty afterwards.
    ///
    /// # Errors
    /// The gradient does not have the result's shape, or the backward pass of an operation fails.
    pub fn backward(self, result: &Variable, gradient: Tensor) -> Result<Gradients> {
        self.backward_seen(result, gradient, &mut |_| {})
    }

    /// [`Self::backward`] that passes each gradient to `seen` as it is computed, some with what was added to them.
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
            match backward {
                Backward::Apart(backward) => {
                    for (input, gradient) in node.inputs.into_iter().zip(backward(&gradient)?) {
                        let Some(gradient) = gradient else { continue };
                        seen(&gradient);
                        let Some(index) = input else { continue };
                        let total = plus(gradient, gradients[index].take().as_ref())?;
                        gradients[index] = Some(total);
                    }
                }
                Backward::Adding(backward) => {
                    let [Some(index)] = node.inputs[..] else { continue };
                    let total = backward(&gradient, gradients[index].take().as_ref())?;
                    seen(&total);
                    gradients[index] = Some(total);
                }
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

/// The gradients of the leaves.
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// The gradient of a leaf, or `None` if the result does not depend on it. Each can be taken once.
    pub fn take(&mut self, leaf: &Variable) -> Option<Tensor> {
        self.0.get_mut(leaf.origin.as_ref()?.index)?.take()
    }
}

/// Runs `block` and keeps only its inputs; the backward pass runs it once more (gradient checkpointing).
///
/// `block` must return the same result each time and use no tracked variables other than its inputs.
pub fn checkpoint(
    inputs: &[&Variable],
    block: impl Fn(&[Variable]) -> super::error::Result<Variable> + Send + 'static,
) -> super::error::Result<Variable> {
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
