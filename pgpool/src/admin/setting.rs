//! `SET key = value` of the admin database: limits and times that change while the instance runs, until
//! the file is read again. Not for the file's own keys: those have units. Called by the console.
//!
//! Invariant: a value that is not understood changes nothing.

use std::time::Duration;

use topology::pool::Settings;

/// Where a setting is kept.
enum Slot<'a> {
    Count(&'a mut u32),
    Time(&'a mut Duration),
    Text(&'a mut String),
}

fn slot<'a>(settings: &'a mut Settings, key: &str) -> Option<Slot<'a>> {
    Some(match key {
        "min_pool_size" => Slot::Count(&mut settings.min_pool_size),
        "reserve_pool_size" => Slot::Count(&mut settings.reserve_pool_size),
        "max_pinned" => Slot::Count(&mut settings.max_pinned),
        "max_listen_channels" => Slot::Count(&mut settings.max_listen_channels),
        "max_prepared_statements" => Slot::Count(&mut settings.max_prepared_statements),
        "reserve_pool_timeout" => Slot::Time(&mut settings.reserve_pool_timeout),
        "query_wait_timeout" => Slot::Time(&mut settings.query_wait_timeout),
        "server_idle_timeout" => Slot::Time(&mut settings.server_idle_timeout),
        "server_lifetime" => Slot::Time(&mut settings.server_lifetime),
        "server_connect_timeout" => Slot::Time(&mut settings.server_connect_timeout),
        "client_login_timeout" => Slot::Time(&mut settings.client_login_timeout),
        "client_idle_timeout" => Slot::Time(&mut settings.client_idle_timeout),
        "idle_transaction_timeout" => Slot::Time(&mut settings.idle_transaction_timeout),
        "transaction_timeout" => Slot::Time(&mut settings.transaction_timeout),
        "query_timeout" => Slot::Time(&mut settings.query_timeout),
        "server_login_retry" => Slot::Time(&mut settings.server_login_retry),
        "server_away_after" => Slot::Time(&mut settings.server_away_after),
        "query_wait_notify" => Slot::Time(&mut settings.query_wait_notify),
        "cancel_wait_timeout" => Slot::Time(&mut settings.cancel_wait_timeout),
        "server_check_delay" => Slot::Time(&mut settings.server_check_delay),
        "autodb_idle_timeout" => Slot::Time(&mut settings.autodb_idle_timeout),
        "dns_max_ttl" => Slot::Time(&mut settings.dns_max_ttl),
        "dns_nxdomain_ttl" => Slot::Time(&mut settings.dns_nxdomain_ttl),
        "server_check_query" => Slot::Text(&mut settings.server_check_query),
        "server_reset_query" => Slot::Text(&mut settings.server_reset_query),
        _ => return None,
    })
}

/// Whether `SET` changes it.
pub fn is_known(settings: &Settings, key: &str) -> bool {
    slot(&mut settings.clone(), key).is_some()
}

/// Changes one; times are in seconds, as PgBouncer's are.
///
/// # Errors
/// What is wrong with the key or the value.
pub fn set(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    let never = [
        "server_connect_timeout",
        "client_login_timeout",
        "server_login_retry",
        "cancel_wait_timeout",
        "server_away_after",
    ];
    let slot = slot(settings, key)
        .ok_or_else(|| format!("{key} is changed in the file, and by RELOAD"))?;
    match slot {
        Slot::Count(count) => {
            *count = value.parse().map_err(|_| format!("{key}: {value:?} is no whole number"))?;
        }
        Slot::Time(time) => {
            let seconds = value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let seconds =
                seconds.ok_or_else(|| format!("{key}: {value:?} is no time in seconds"))?;
            if seconds.is_zero() && never.contains(&key) {
                return Err(format!("{key} cannot be 0"));
            }
            *time = seconds;
        }
        Slot::Text(text) => value.clone_into(text),
    }
    Ok(())
}
