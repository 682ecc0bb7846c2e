//! Asking a registry whether it takes somebody's credentials (OCI distribution specification 1.1, "Determining Support").

use reqwest::{StatusCode, header::AUTHORIZATION};

use super::Registry;
use crate::Error;

impl Registry {
    /// Succeeds where the registry's root answers these credentials, or asks for none.
    pub(crate) async fn login(&self) -> Result<(), Error> {
        let root = || self.client.get(format!("{}/v2/", self.base));
        let mut response = self.send(root()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = match self.challenge(&response) {
                Some(challenge) => self.authorize(&challenge).await?,
                None => None,
            };
            let Some(header) = authorization.as_ref().and_then(|a| a.header()) else {
                return Err(self.refused(response).await);
            };
            response = self
                .send(root().header(AUTHORIZATION, header.clone()))
                .await?;
        }
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.refused(response).await)
    }
}
