// SPDX-FileCopyrightText: 2026 meshops.istio contributors
// SPDX-License-Identifier: GPL-3.0-or-later
module meshops/istio/benchmarks

go 1.26.8

require (
	github.com/rakyll/hey v0.1.5 // indirect
	golang.org/x/net v0.48.0 // indirect
	golang.org/x/text v0.33.0 // indirect
)

tool github.com/rakyll/hey
