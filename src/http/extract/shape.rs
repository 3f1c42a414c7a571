//! What a value has to look like: names and types, as the document of the API says.
//!
//! A body is checked against the schema that is published for it before it is read. So the document and the service agree, a client
//! is told of everything that is wrong with the form of its request at once, and in JSON's words. Ranges and the meaning of texts are
//! checked afterwards, by `domain` and `app`.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use serde_json::{Map, Value};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::check::Shape;
use crate::domain::training::TrainingRecipe;

/// Shapes that have been made, by the type whose schema they are.
static SHAPES: LazyLock<RwLock<HashMap<TypeId, Arc<Shape>>>> = LazyLock::new(RwLock::default);

/// The shape of a body.
pub(super) fn of_body<T: ToSchema + 'static>() -> Arc<Shape> {
    shape_of::<T>(|| {
        let mut components = Vec::new();
        T::schemas(&mut components);
        // A training describes its recipe by a function, which hides the types of the recipe's fields.
        TrainingRecipe::schemas(&mut components);
        Compiler::new(components).shape(&json(&T::schema()), 0)
    })
}

/// The shape of a query as an object. Parameters that `T` does not have are not its concern.
pub(super) fn of_query<T: IntoParams + 'static>() -> Arc<Shape> {
    shape_of::<T>(|| {
        let parameters = T::into_params(|| Some(ParameterIn::Query));
        let compiler = Compiler::new(Vec::new());
        let fields = parameters.iter().map(|parameter| {
            let is_required = parameter.required == utoipa::openapi::Required::True;
            (parameter.name.clone(), (compiler.of_parameter(parameter), is_required))
        });
        Shape::Object { fields: fields.collect(), others: Some(Box::new(Shape::Any)) }
    })
}

fn shape_of<T: 'static>(make: impl FnOnce() -> Shape) -> Arc<Shape> {
    let id = TypeId::of::<T>();
    let known = SHAPES.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    known.unwrap_or_else(|| {
        let shape = Arc::new(make());
        SHAPES.write().unwrap_or_else(PoisonError::into_inner).insert(id, shape.clone());
        shape
    })
}

fn json(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).unwrap_or_default()
}

/// The deepest that schemas refer to each other. What is deeper refers to itself.
const MAX_DEPTH: usize = 24;

/// Makes shapes of JSON schemas.
struct Compiler {
    components: HashMap<String, Value>,
}

impl Compiler {
    fn new(components: Vec<(String, RefOr<Schema>)>) -> Self {
        let components = components.into_iter().map(|(name, schema)| (name, json(&schema)));
        Self { components: components.collect() }
    }

    fn of_parameter(&self, parameter: &Parameter) -> Shape {
        match &parameter.schema {
            // A parameter is a text; what its type refers to is read from one.
            Some(schema) => match self.shape(&json(schema), 0) {
                Shape::Any => Shape::Text { options: Vec::new() },
                shape => shape,
            },
            None => Shape::Text { options: Vec::new() },
        }
    }

    fn shape(&self, schema: &Value, depth: usize) -> Shape {
        if depth > MAX_DEPTH {
            return Shape::Any;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default();
            let component = self.components.get(name);
            return component.map_or(Shape::Any, |schema| self.shape(schema, depth + 1));
        }
        if let Some(variants) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            return Shape::one_of(variants.iter().map(|variant| self.shape(variant, depth + 1)));
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return all_of(parts.iter().map(|part| self.shape(part, depth + 1)));
        }
        match &schema["type"] {
            Value::String(name) => self.of_type(name, schema, depth),
            Value::Array(names) => {
                let names = names.iter().filter_map(Value::as_str);
                Shape::one_of(names.map(|name| self.of_type(name, schema, depth)))
            }
            _ => Shape::Any,
        }
    }

    fn of_type(&self, name: &str, schema: &Value, depth: usize) -> Shape {
        match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "string" => Shape::Text { options: texts(&schema["enum"]) },
            "number" => Shape::Number,
            "integer" => {
                let is_signed = schema["minimum"].as_f64().is_none_or(|minimum| minimum < 0.0);
                Shape::Integer { is_signed }
            }
            "array" => {
                let (least, most) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
                let items = Box::new(self.shape(&schema["items"], depth + 1));
                Shape::List { items, length: most.filter(|_| least == most) }
            }
            "object" => self.object(schema, depth),
            _ => Shape::Any,
        }
    }

    fn object(&self, schema: &Value, depth: usize) -> Shape {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required = texts(&schema["required"]);
        let fields: BTreeMap<_, _> = properties
            .iter()
            .map(|(name, schema)| {
                (name.clone(), (self.shape(schema, depth + 1), required.contains(name)))
            })
            .collect();
        let others = match &schema["additionalProperties"] {
            Value::Bool(true) => Some(Shape::Any),
            schema @ Value::Object(_) => Some(self.shape(schema, depth + 1)),
            // Fields that nobody has described are refused, whether the schema says so or not.
            _ => fields
                .is_empty()
                .then_some(Shape::Any)
                .filter(|_| schema["additionalProperties"] != false),
        };
        Shape::Object { fields, others: others.map(Box::new) }
    }
}

fn texts(values: &Value) -> Vec<String> {
    let values = values.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// An object with the fields of all parts, for every combination of their variants.
fn all_of(parts: impl Iterator<Item = Shape>) -> Shape {
    let mut merged = vec![BTreeMap::new()];
    for part in parts {
        let variants = match part {
            Shape::OneOf(variants) => variants,
            other => vec![other],
        };
        let mut next = Vec::new();
        for variant in variants {
            let Shape::Object { fields, others: None } = variant else { return Shape::Any };
            next.extend(merged.iter().map(|before: &BTreeMap<_, _>| {
                let mut both = before.clone();
                both.extend(fields.clone());
                both
            }));
        }
        merged = next;
    }
    Shape::one_of(merged.into_iter().map(|fields| Shape::Object { fields, others: None }))
}
