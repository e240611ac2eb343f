// Command fathom measures a network and says what is wrong with it.
package main

import (
	"os"

	"fathom/internal/cli"
	"fathom/internal/lab/service"
)

func main() {
	// The lab runs its services as processes of this program.
	if is, code := service.Child(); is {
		os.Exit(code)
	}
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
