// SPDX-FileCopyrightText: 2026 meshops.istio contributors
// SPDX-License-Identifier: GPL-3.0-or-later

// Command charts writes the charts that Istio embeds in its own module into a folder.
package main

import (
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"istio.io/istio/manifests"
)

func main() {
	charts, err := fs.Sub(manifests.FS, "charts")
	if err != nil {
		log.Fatal(err)
	}
	for name, path := range map[string]string{"base": "base", "istiod": "istio-control/istio-discovery", "gateway": "gateway"} {
		chart, err := fs.Sub(charts, path)
		if err != nil {
			log.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(os.Args[1], name), chart); err != nil {
			log.Fatal(err)
		}
	}
}
