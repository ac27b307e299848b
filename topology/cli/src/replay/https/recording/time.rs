//! Times as recordings write them. Not for durations. Used by `recording`.
//!
//! Invariant: any text gives a finite number or nothing.

/// Seconds since the epoch of an RFC 3339 time (`2026-11-20T23:45:00.5Z`, or `+01:00`).
pub(super) fn instant(text: &str) -> Option<f64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at_checked(zone)?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let mut time = time.splitn(3, ':').map(str::parse::<f64>);
    let days = days(date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?)?;
    let seconds = time.next()?.ok()? * 3600.0 + time.next()?.ok()? * 60.0 + time.next()?.ok()?;
    let seconds = days as f64 * 86_400.0 + seconds - offset(zone)?;
    seconds.is_finite().then_some(seconds)
}

/// Seconds since the epoch of a log's time (`10/Oct/2000:13:55:36 -0700`).
pub(super) fn logged(text: &str) -> Option<f64> {
    let (time, zone) = text.split_once(' ')?;
    let (date, time) = time.split_once(':')?;
    let mut date = date.splitn(3, '/');
    let (day, month, year) = (date.next()?, date.next()?, date.next()?);
    let month = 1 + MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))?;
    let (hours, minutes) = zone.split_at_checked(3)?;
    instant(&format!("{year}-{month}-{day}T{time}{hours}:{minutes}"))
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<f64> {
    let sign = match zone.get(..1)? {
        "+" => 1.0,
        "-" => -1.0,
        _ => return (zone.len() == 1).then_some(0.0),
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0))
}

/// Days from 1970-01-01 in the Gregorian calendar, by counting whole 400-year eras of 146 097 days.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let lawful = (0..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !lawful {
        return None;
    }
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month > 2 { year } else { year - 1 };
    let since_march = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leap_days + (153 * since_march + 2) / 5 + day - 1;
    Some(days - 719_468)
}
