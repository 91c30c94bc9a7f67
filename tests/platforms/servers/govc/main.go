// SPDX-License-Identifier: Apache-2.0

// govc as far as tests need it: its own commands, which are a package of govmomi; its program is a
// module that its authors don't publish.
//
// Added: `ovf.configspec`, which says what govmomi makes of an OVA's descriptor where no simulator
// is asked – that one reads neither the firmware nor further settings.
package main

import (
	"bytes"
	"context"
	"flag"
	"os"

	"github.com/vmware/govmomi/cli"
	_ "github.com/vmware/govmomi/cli/importx"
	_ "github.com/vmware/govmomi/cli/vm"
	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/ovf/importer"
	"github.com/vmware/govmomi/vim25/types"
)

type configSpec struct{}

func (*configSpec) Register(context.Context, *flag.FlagSet) {}
func (*configSpec) Process(context.Context) error           { return nil }

func (*configSpec) Run(_ context.Context, f *flag.FlagSet) error {
	text, err := importer.ReadOvf("*.ovf", &importer.TapeArchive{Path: f.Arg(0)})
	if err != nil {
		return err
	}
	envelope, err := importer.ReadEnvelope(text)
	if err != nil {
		return err
	}
	spec, err := envelope.ToConfigSpecWithOptions(ovf.ToConfigSpecOptions{Strict: true})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := types.NewJSONEncoder(&out).Encode(spec); err != nil {
		return err
	}
	_, err = out.WriteTo(os.Stdout)
	return err
}

func main() {
	cli.Register("ovf.configspec", new(configSpec))
	os.Exit(cli.Run(os.Args[1:]))
}
