//! Bodies of the control API: those that the host reads, and those that the CLI reads from the host.
#![no_main]

use insula_fuzz::{json_is_faithful, json_round_trip, manifest_holds};
use insula_model::api::{
    DeployRequest, DeployResponse, ErrorBody, HostInfo, JobResult, JobRun, LogRecord, RevisionInfo,
    RollbackRequest, SecretInfo, TenantDetail, TenantSummary,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn same_again<T: Serialize + DeserializeOwned>(body: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(body) {
        json_round_trip(&value);
    }
}

fn equal_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(body) {
        json_is_faithful(&value);
    }
}

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<DeployRequest>(body) {
        let read = json_round_trip(&request);
        assert_eq!((read.manifest, read.artifact), (request.manifest.clone(), request.artifact));
        // JSON says what TOML cannot: any character, any number.
        manifest_holds(&request.manifest);
    }
    same_again::<RollbackRequest>(body);
    same_again::<DeployResponse>(body);
    same_again::<HostInfo>(body);
    same_again::<RevisionInfo>(body);
    same_again::<TenantDetail>(body);
    same_again::<TenantSummary>(body);
    equal_again::<ErrorBody>(body);
    equal_again::<JobRun>(body);
    equal_again::<LogRecord>(body);
    equal_again::<SecretInfo>(body);
    if let Ok(result @ JobResult::Exited { .. }) = serde_json::from_slice::<JobResult>(body) {
        // As the state database keeps it.
        assert_eq!(JobResult::from(result.to_string().as_str()), result);
    }
});
