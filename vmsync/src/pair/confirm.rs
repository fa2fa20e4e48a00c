//! The peer's word that it holds a recording durably, for the mover (R-VR-4).

use async_trait::async_trait;

use super::{PeerClient, PeerError};
use crate::vrl::{Confirm, ConfirmAnswer, ConfirmError};

#[async_trait]
impl Confirm for PeerClient {
    async fn confirm(
        &self,
        name: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<ConfirmAnswer, ConfirmError> {
        self.confirm_recording(name, bytes, sha256)
            .await
            .map_err(|e| match e {
                // It answered this question with a failure: the next recording may fare better.
                PeerError::Refused { status: 500, .. } => ConfirmError::Failed(e.to_string()),
                other => ConfirmError::Unreachable(other.to_string()),
            })
    }
}
