//! The tags of a repository (OCI distribution specification 1.1, "Listing Tags").

use reqwest::{Response, Url, header::LINK};
use serde::Deserialize;

use super::Registry;
use crate::{Error, store::MAX_DOCUMENT_BYTES};

/// Tags of one repository; the largest in use have some thousand.
const MAX_TAGS: usize = 20_000;

/// Pages asked for. Registries give a hundred tags and more in each.
const MAX_PAGES: usize = 500;

#[derive(Deserialize)]
struct Page {
    /// `null` where there are none.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All of them, page by page.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, Error> {
        let mut path = "tags/list".to_owned();
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let response = self.get(&path, None, 0).await?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let next = next_query(&response);
            let json = self
                .read(response, MAX_DOCUMENT_BYTES, "the list of tags")
                .await?;
            let page: Page = serde_json::from_slice(&json)
                .map_err(|err| self.broken(format!("its list of tags can't be read: {err}")))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                _ if tags.len() > MAX_TAGS => break,
                None => return Ok(tags),
                Some(query) => path = format!("tags/list?{query}"),
            }
        }
        Err(Error::TooLarge {
            what: format!("the number of tags of {}", self.reference.familiar_name()),
            limit: MAX_TAGS.to_string(),
        })
    }
}

/// The query of `Link: <url>; rel="next"` (RFC 8288). Only the query counts: the rest of the list is where this page was.
fn next_query(response: &Response) -> Option<String> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    next_of(response.url(), link)
}

fn next_of(base: &Url, link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = parameters
        .split(';')
        .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
    let query = base.join(target).ok()?.query()?.to_owned();
    next.then_some(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_each_form() {
        let base = Url::parse("https://example.com/v2/a/tags/list").unwrap();
        for link in [
            r#"</v2/a/tags/list?last=b&n=1>; rel="next""#,
            "<tags/list?last=b&n=1>;rel=next",
            r#"<https://elsewhere.example/x?last=b&n=1>; rel="next""#,
        ] {
            assert_eq!(
                next_of(&base, link).as_deref(),
                Some("last=b&n=1"),
                "{link}"
            );
        }
        for link in [
            "",
            "<x",
            r#"</v2/a/tags/list?n=1>; rel="prev""#,
            "</v2>; rel=next",
        ] {
            assert_eq!(next_of(&base, link), None, "{link}");
        }
    }
}
