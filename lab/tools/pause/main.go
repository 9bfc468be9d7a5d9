// SPDX-FileCopyrightText: 2026 meshops.istio contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// Command pause holds the namespaces of a pod: it waits to be told to stop, and reaps what is left to it
// when the pod's containers share one process namespace.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
