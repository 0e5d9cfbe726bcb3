//! Who is told what became of rejections: the program, and the event bus.

use std::path::Path;

use super::Check;
use super::target::executable;
use crate::aws::Connector;
use crate::config::Config;
use crate::domain::error_class::ErrorClass;

const PROGRAM: &str = "notify program";
const BUS: &str = "notify event bus";

pub(super) async fn examine(config: &Config, connector: &Connector) -> Vec<Check> {
    let notify = &config.notify;
    let program = notify.program.first();
    let mut checks: Vec<Check> = program
        .map(|path| executable(PROGRAM, Path::new(path)))
        .into_iter()
        .collect();
    let bus = &notify.event_bus;
    if !bus.is_empty() {
        let check = match connector.events(notify.region()).describe(bus).await {
            Ok(()) => Check::ok(BUS, "there is such a bus"),
            // Events for it are taken, and nobody gets them.
            Err(error) if error.class == ErrorClass::NotFound => Check::failure(
                BUS,
                "there is no such bus",
                "check notify.event_bus, the region and the account",
            ),
            // The daemon itself never asks for it.
            Err(error) => {
                Check::call(BUS, &error, "events:DescribeEventBus on it").at_most_a_warning()
            }
        };
        checks.push(check.about(bus.clone()));
    }
    checks
}
