// SPDX-License-Identifier: Apache-2.0

// A vCenter of this test run: govmomi's simulator, with what it lacks and with troubles on request.
//
// Added: it keeps what is sent to an import's lease (the simulator hashes it and throws it away),
// hashes it by SHA-256, too, as vSphere 6.7 can (the simulator knows SHA-1), also unasked, as govc
// doesn't ask, and applies the annotation that a clone is to have (the simulator drops
// CloneSpec.config's fields).
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const cutAfter = 20_000

// What goes wrong, by what is asked for: a SOAP method's name, or upload for that of a disk.
var troubles atomic.Pointer[map[string]string]

// annotations knows what clones are to have in their notes: name → annotation.
type annotations struct{ wanted sync.Map }

func (a *annotations) note(body []byte) {
	method, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		return
	}
	if clone, ok := method.Body.(*types.CloneVM_Task); ok && clone.Spec.Config != nil {
		a.wanted.Store(clone.Name, clone.Spec.Config.Annotation)
	}
}

// UpdateObject is called when a machine is made, as soon as it has a name.
func (a *annotations) UpdateObject(_ *simulator.Context, o mo.Reference, _ []types.PropertyChange) {
	if vm, ok := o.(*mo.VirtualMachine); ok {
		if text, ok := a.wanted.LoadAndDelete(vm.Name); ok {
			vm.Config.Annotation = text.(string)
		}
	}
}

func (*annotations) PutObject(*simulator.Context, mo.Reference)                    {}
func (*annotations) RemoveObject(*simulator.Context, types.ManagedObjectReference) {}
func (*annotations) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Annotations", Value: "annotations"}
}

func handler(_ *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	return nil, fault(m)
}

func fault(m *simulator.Method) types.BaseMethodFault {
	switch (*troubles.Load())[m.Name] {
	case "full":
		return &types.NoDiskSpace{Datastore: "LocalDS_0"}
	case "forbidden":
		return &types.NoPermission{Object: &m.This, PrivilegeId: "VirtualMachine.Inventory.Create"}
	}
	return nil
}

// checksums knows what the newest upload hashes to.
type checksums struct{ newest atomic.Value }

const (
	setType = "HttpNfcLeaseSetManifestChecksumType"
	typeSet = `<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>` +
		`<` + setType + `Response xmlns="urn:vim25"/></Body></Envelope>`
)

// answer gives what the simulator doesn't: a type of checksum that can be set, and that checksum.
func (c *checksums) answer(w http.ResponseWriter, r *http.Request, body []byte, next http.HandlerFunc) {
	switch {
	case bytes.Contains(body, []byte("<"+setType+" ")) && (*troubles.Load())[setType] == "":
		_, _ = io.WriteString(w, typeSet)
	case bytes.Contains(body, []byte("<HttpNfcLeaseGetManifest ")):
		seen := httptest.NewRecorder()
		next(seen, r)
		sum, _ := c.newest.Load().(string)
		more := "</sha1><checksum>" + sum + "</checksum><checksumType>sha256</checksumType>"
		_, _ = io.WriteString(w, strings.Replace(seen.Body.String(), "</sha1>", more, 1))
	default:
		next(w, r)
	}
}

// soapDoor lets SOAP requests through, or makes of them what the troubles say.
func soapDoor(notes *annotations, sums *checksums, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("<CloneVM_Task ")) {
			notes.note(body)
		}
		for method, how := range *troubles.Load() {
			if !bytes.Contains(body, []byte("<"+method+" ")) {
				continue
			}
			switch how {
			case "busy":
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			case "cut": // it is done, and nobody hears of it
				next(&unheard{ResponseWriter: w}, r)
				hangUp(w)
				return
			}
		}
		sums.answer(w, r, body, next)
	}
}

type unheard struct{ http.ResponseWriter }

func (u *unheard) Write(b []byte) (int, error) { return len(b), nil }
func (u *unheard) WriteHeader(int)             {}

func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// keep is for uploads: it writes what arrives into a directory, and gives it to the simulator.
func keep(dir string, sums *checksums) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch (*troubles.Load())["upload"] {
		case "busy":
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		case "cut":
			_, _ = io.CopyN(io.Discard, r.Body, cutAfter)
			hangUp(w)
			return
		case "other": // one byte on its way becomes another
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader([]byte{0}), skip(r.Body)))
		}
		name := filepath.Base(filepath.Dir(r.URL.Path)) + "-" + filepath.Base(r.URL.Path)
		out, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer out.Close()
		sum := sha256.New()
		r.Body = io.NopCloser(io.TeeReader(r.Body, io.MultiWriter(out, sum)))
		simulator.ServeNFC(w, r)
		sums.newest.Store(hex.EncodeToString(sum.Sum(nil)))
	}
}

func skip(r io.Reader) io.Reader {
	_, _ = io.CopyN(io.Discard, r, 1)
	return r
}

func setTroubles(w http.ResponseWriter, r *http.Request) {
	wanted := map[string]string{}
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	troubles.Store(&wanted)
}

// Arguments: a directory for what it keeps. The password is read from standard input.
func main() {
	dir := os.Args[1]
	var password string
	if _, err := fmt.Scanln(&password); err != nil {
		log.Fatal(err)
	}
	troubles.Store(&map[string]string{})
	model := simulator.VPX()
	model.Datacenter, model.Machine = 1, 1
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()
	service, notes, sums := model.Service, new(annotations), new(checksums)
	service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("kubekiln", password)}
	service.TLS = new(tls.Config)
	service.ServeMux = http.NewServeMux()
	service.ServeMux.HandleFunc("POST /sdk", soapDoor(notes, sums, service.ServeSDK))
	service.ServeMux.HandleFunc("POST /nfc/", keep(dir, sums))
	service.ServeMux.HandleFunc("POST /troubles", setTroubles)
	model.Map().Handler = handler
	model.Map().AddHandler(notes)
	server := service.NewServer()
	defer server.Close()
	cert, err := server.CertificateFile()
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(cert)
	fmt.Printf("{\"host\": %q, \"cert\": %q}\n", server.URL.Host, cert)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
