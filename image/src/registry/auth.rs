//! Logging in: basic authentication, and tokens as docker's registries hand them out (distribution, "Token
//! Authentication" and "OAuth2").

use http_auth::{ChallengeRef, parser::ChallengeParser};
use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use super::Registry;
use crate::{Credentials, Error};

/// Bytes of a token service's answer; tokens have some kilobytes.
const MAX_TOKEN_BYTES: u64 = 256 << 10;

/// How we call ourselves to a token service.
const CLIENT_ID: &str = "hearth";

/// The `Authorization` header to send.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Authorization(Option<HeaderValue>);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Authorization(..)"
        } else {
            "Authorization(none)"
        })
    }
}

impl Authorization {
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }

    fn bearer(token: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }
}

/// How the registry wants to be convinced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// From the values of `WWW-Authenticate` (RFC 9110, section 11.6.1); a token is preferred.
    pub(crate) fn of<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let all: Vec<Self> = headers
            .into_iter()
            .filter_map(|header| std::str::from_utf8(header).ok())
            .flat_map(|header| ChallengeParser::new(header).map_while(Result::ok))
            .filter_map(|challenge| Self::from_parsed(&challenge))
            .collect();
        let bearer = all.iter().position(|challenge| *challenge != Self::Basic);
        all.into_iter().nth(bearer.unwrap_or(0))
    }

    fn from_parsed(challenge: &ChallengeRef<'_>) -> Option<Self> {
        let parameter = |wanted: &str| {
            let found = challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer {
                realm: parameter("realm")?,
                service: parameter("service"),
                scope: parameter("scope"),
            });
        }
        None
    }
}

/// A token service's answer, in both dialects.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Registry {
    /// Answers a challenge; `None` if there is nothing to answer with.
    pub(super) async fn authorize(
        &self,
        challenge: &Challenge,
    ) -> Result<Option<Authorization>, Error> {
        match challenge {
            Challenge::Basic => match &self.credentials {
                Credentials::Basic { username, password } => {
                    // Built by the client, so that there is one way of encoding it.
                    let request = self
                        .client
                        .get(&self.base)
                        .basic_auth(username, Some(password));
                    let request = request.build().map_err(|err| self.unreachable(&err))?;
                    let header = request
                        .headers()
                        .get(reqwest::header::AUTHORIZATION)
                        .cloned();
                    Ok(header.map(|value| Authorization(Some(value))))
                }
                _ => Ok(None),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => self
                .fetch_token(realm, service.as_deref(), scope.as_deref())
                .await
                .map(Some),
        }
    }

    /// A registry may name a token service on another host, as docker.io does: it got to us over TLS, and vouches for
    /// it. In the clear a password goes nowhere but to a registry that the owner has declared insecure.
    fn check_realm(&self, realm: &Url) -> Result<(), Error> {
        let authority = match (realm.host_str(), realm.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => String::new(),
        };
        let secret = self.credentials != Credentials::Anonymous;
        let clear = realm.scheme() != "https" && !self.insecure_registries.contains(&authority);
        if secret && clear {
            return Err(self.broken(format!(
                "its token service {authority} isn't reached over TLS: no password is sent there"
            )));
        }
        Ok(())
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Authorization, Error> {
        let mut url = Url::parse(realm)
            .map_err(|_| self.broken(format!("its token service {realm:?} is no URL")))?;
        self.check_realm(&url)?;
        let own_scope = format!("repository:{}:pull", self.reference.repository());
        let mut parameters = vec![("scope", scope.unwrap_or(&own_scope))];
        parameters.extend(service.map(|service| ("service", service)));

        let request = match &self.credentials {
            Credentials::IdentityToken(token) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", token),
                ]);
                let mut form = Url::parse("form:").map_err(|_| self.broken("no form"))?;
                form.query_pairs_mut().extend_pairs(parameters);
                self.token_client
                    .post(url)
                    .header(
                        reqwest::header::CONTENT_TYPE,
                        "application/x-www-form-urlencoded",
                    )
                    .body(form.query().unwrap_or_default().to_owned())
            }
            Credentials::Basic { username, password } => {
                url.query_pairs_mut()
                    .append_pair("account", username)
                    .extend_pairs(parameters);
                self.token_client
                    .get(url)
                    .basic_auth(username, Some(password))
            }
            Credentials::Anonymous => {
                url.query_pairs_mut().extend_pairs(parameters);
                self.token_client.get(url)
            }
        };
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(match self.refused(response).await {
                // It's not the image that isn't there, but the way to it.
                Error::NotFound { .. } => self.broken("its token service does not exist"),
                // Wrong passwords are answered in many ways.
                Error::Registry {
                    status: 400..500,
                    reason,
                    ..
                } => Error::Unauthorized {
                    reference: self.reference.familiar(),
                    registry: self.name().to_owned(),
                    reason,
                },
                other => other,
            });
        }
        let body = self
            .read(response, MAX_TOKEN_BYTES, "the registry's token")
            .await?;
        serde_json::from_slice::<TokenAnswer>(&body)
            .ok()
            .and_then(|answer| {
                answer
                    .token
                    .filter(|token| !token.is_empty())
                    .or(answer.access_token)
            })
            .and_then(|token| Authorization::bearer(&token))
            .ok_or_else(|| self.broken("its token service gave no token"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_preferred_and_the_case_of_words_does_not_matter() {
        let bearer = br#"bEARER Realm="https://auth.example/token",service="a b",scope="x""#;
        let Some(Challenge::Bearer {
            realm,
            service,
            scope,
        }) = Challenge::of([&b"Basic realm=x"[..], bearer])
        else {
            panic!("a token was offered");
        };
        assert_eq!(realm, "https://auth.example/token");
        assert_eq!(
            (service.as_deref(), scope.as_deref()),
            (Some("a b"), Some("x"))
        );
        assert_eq!(
            Challenge::of([&b"basic realm=\"x\""[..]]),
            Some(Challenge::Basic)
        );
        assert_eq!(
            Challenge::of([&b"Bearer service=x"[..], b"Digest a=b"]),
            None
        );
    }

    proptest! {
        #[test]
        fn any_header_is_a_challenge_or_none(header in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Challenge::of([header.as_slice(), &[b"Bearer ", header.as_slice()].concat()]);
        }
    }
}
