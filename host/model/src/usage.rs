//! What a tenant has used over time, as figures that only grow.

/// What was used up to some moment, or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Requests that ended, in any way but `shed`.
    pub requests: u64,
    /// … with the guest's whole response.
    pub responses: u64,
    /// … by the client's doing.
    pub client_faults: u64,
    /// … by the guest's doing.
    pub guest_faults: u64,
    /// … by the host's doing.
    pub host_faults: u64,
    /// Requests refused before anything ran.
    pub shed: u64,
    /// Fuel consumed.
    pub fuel: u64,
    /// Nanoseconds during which guests held a thread.
    pub cpu_ns: u64,
    /// Memory held, over time: KiB times microseconds.
    pub memory_kib_us: u64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// Bytes that calls over the network sent, before TLS.
    pub bytes_outbound: u64,
}

/// How many figures there are.
pub const FIGURES: usize = 12;

impl Used {
    /// The names of the figures, in the order of [`Used::figures`]. A new one comes last.
    pub const NAMES: [&'static str; FIGURES] = [
        "requests",
        "responses",
        "client_faults",
        "guest_faults",
        "host_faults",
        "shed",
        "fuel",
        "cpu_ns",
        "memory_kib_us",
        "bytes_in",
        "bytes_out",
        "bytes_outbound",
    ];

    /// All figures, in one order.
    pub fn figures(&self) -> [u64; FIGURES] {
        [
            self.requests,
            self.responses,
            self.client_faults,
            self.guest_faults,
            self.host_faults,
            self.shed,
            self.fuel,
            self.cpu_ns,
            self.memory_kib_us,
            self.bytes_in,
            self.bytes_out,
            self.bytes_outbound,
        ]
    }

    /// The same from its figures.
    pub fn from_figures(figures: [u64; FIGURES]) -> Self {
        let [requests, responses, client_faults, guest_faults, host_faults, shed, fuel, ..] =
            figures;
        let [.., cpu_ns, memory_kib_us, bytes_in, bytes_out, bytes_outbound] = figures;
        Self {
            requests,
            responses,
            client_faults,
            guest_faults,
            host_faults,
            shed,
            fuel,
            cpu_ns,
            memory_kib_us,
            bytes_in,
            bytes_out,
            bytes_outbound,
        }
    }

    /// What was used between `before` and now. A figure that was read a moment too early, and so went
    /// back, is left to the next time.
    pub fn since(&self, before: &Self) -> Self {
        let (now, before) = (self.figures(), before.figures());
        let mut grown = [0; FIGURES];
        for (grown, (now, before)) in grown.iter_mut().zip(now.into_iter().zip(before)) {
            // They may pass 2^64 and begin again.
            *grown = u64::try_from(now.wrapping_sub(before).cast_signed()).unwrap_or(0);
        }
        Self::from_figures(grown)
    }

    /// Both together.
    pub fn plus(&self, more: &Self) -> Self {
        let mut sum = self.figures();
        for (sum, more) in sum.iter_mut().zip(more.figures()) {
            *sum = sum.wrapping_add(more);
        }
        Self::from_figures(sum)
    }

    /// Whether nothing was used.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_places_and_their_sums() {
        let mut figures = [0; FIGURES];
        for (figure, number) in figures.iter_mut().zip(1..) {
            *figure = number;
        }
        let used = Used::from_figures(figures);
        assert_eq!((used.requests, used.fuel, used.cpu_ns, used.bytes_out), (1, 7, 8, 11));
        assert_eq!(used.bytes_outbound, 12);
        assert_eq!(used.figures(), figures);
        assert_eq!(used.plus(&used).since(&used), used);
        // Going back is nothing, and is made up for.
        let back = Used { fuel: 3, ..used };
        let grown = back.since(&used);
        assert_eq!(grown.fuel, 0);
        let kept = used.plus(&grown);
        assert_eq!(Used { fuel: 10, ..used }.since(&kept).fuel, 3);
        assert_eq!(Used { fuel: 1, ..used }.since(&Used { fuel: u64::MAX, ..used }).fuel, 2);
    }
}
