//! Who calls the broker from the other side: login servers, which ask for approvals, and enrolling pages, which ask for
//! codes.
//!
//! In the order of the story: [`credential`] (who calls) → [`page`] (a person enrols a phone) → [`server`] (the person
//! signs in) → [`update`] (what the pages are told). Errors of the broker are [`Refusal`](crate::wire::Refusal)s.
//!
//! ```no_run
//! use device_sim::{
//!     clock::Clock,
//!     login::{ApiKey, LoginServer, SignIn, Step},
//!     wire::Transport,
//! };
//!
//! # async fn example(key: ApiKey) -> Result<(), Box<dyn std::error::Error>> {
//! let transport = Transport::to("http://127.0.0.1:8443").open()?;
//! let login = LoginServer::new(&transport, Some(key));
//! let sign_in = SignIn::new("åsa", "Payroll").from_ip("198.51.100.7");
//! let outcome = login
//!     .until_outcome(&sign_in, &Clock::new(), |update| {
//!         if let Step::Issued(issued) = &update.step {
//!             println!("type {} on your phone", issued.number.expose());
//!         }
//!     })
//!     .await?;
//! assert!(outcome.is_for(&sign_in.session_binding));
//! # Ok(())
//! # }
//! ```

pub mod credential;
pub mod page;
mod resume;
pub mod server;
pub mod update;

pub use self::{
    credential::{ApiKey, ApiKeyError, Client},
    page::{Begun, EnrollingPage, EnrolmentStep, EnrolmentUpdate, EnrolmentUpdates},
    server::{LoginServer, News, Opened, SignIn, Standing, Updates},
    update::{Issued, Outcome, Progress, Step, Update},
};
