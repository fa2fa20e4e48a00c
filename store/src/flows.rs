//! Call flows as replicated, and replicated settings.

use serde_json::{Value, json};

use crate::{
    disk::Purpose,
    error::StoreError,
    keys, limits,
    mailboxes::SMALL,
    model::{Flow, Settings},
    operation::EntityKey,
    record::Record,
    store::Store,
    view,
};

const SOURCE: &str = "source";
const VALUE: &str = "value";

impl Store {
    /// Makes a call flow live. It replaces all versions seen here, conflicting ones too (R-CF-6).
    pub fn set_flow(&self, name: &str, source: &str) -> Result<Flow, StoreError> {
        limits::label("the call flow's name", name)?;
        limits::flow_source(source)?;
        let entity = EntityKey::Flow(name.to_owned());
        let size = SMALL + 4 * source.len() as u64;
        self.write(size, Purpose::Content, |t| {
            t.set(&entity, [(SOURCE, json!(source))])?;
            view::flow(name, t.record(&entity)?).ok_or_else(|| no_flow(name))
        })
    }

    /// Removes a call flow, conflicting versions too.
    pub fn remove_flow(&self, name: &str) -> Result<(), StoreError> {
        let entity = EntityKey::Flow(name.to_owned());
        self.write(SMALL, Purpose::Upkeep, |t| {
            if view::flow(name, t.record(&entity)?).is_none() {
                return Err(no_flow(name));
            }
            t.set(&entity, [(SOURCE, Value::Null)]).map(drop)
        })
    }

    /// Sets a replicated setting.
    pub fn set_setting(&self, name: &str, value: Value) -> Result<(), StoreError> {
        limits::setting(name, &value)?;
        let entity = EntityKey::Setting(name.to_owned());
        self.write(SMALL, Purpose::Content, |t| {
            t.set(&entity, [(VALUE, value)]).map(drop)
        })
    }

    /// One call flow.
    pub fn flow(&self, name: &str) -> Result<Option<Flow>, StoreError> {
        let record = self.record(&EntityKey::Flow(name.to_owned()))?;
        Ok(view::flow(name, &record))
    }

    /// All call flows, by name.
    pub fn flows(&self) -> Result<Vec<Flow>, StoreError> {
        let records = self.records_of_kind("flow/")?;
        Ok(records
            .into_iter()
            .filter_map(|(name, record)| view::flow(&name, &record))
            .collect())
    }

    /// All settings.
    pub fn settings(&self) -> Result<Settings, StoreError> {
        let mut settings = Settings::new();
        for (name, mut record) in self.records_of_kind("setting/")? {
            if let Some(field) = record.fields.remove(VALUE) {
                settings.insert(name, (field.0.value(), field.1));
            }
        }
        Ok(settings)
    }

    fn records_of_kind(&self, kind: &str) -> Result<Vec<(String, Record)>, StoreError> {
        let prefix = keys::records(kind);
        self.inner.committer.read(|index| {
            let mut found = Vec::new();
            for (key, value) in index.range(&prefix, &keys::end_of(&prefix), usize::MAX)? {
                let name = key.get(prefix.len()..).unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                found.push((name, Record::from_bytes(&value)?));
            }
            Ok(found)
        })
    }
}

fn no_flow(name: &str) -> StoreError {
    StoreError::NotFound {
        what: format!("call flow {name}"),
    }
}
