//go:build real

// Package console looks at the worker's page in a real Chromium: `make console`. With -shots
// DIR it leaves screenshots there.
package console

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/console"
	"tollgate/internal/proctest"
)

var shots = flag.String("shots", "", "leave screenshots in this folder")

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

// browser is a tab, with what it complained of and asked for.
type browser struct {
	*testing.T
	ctx context.Context

	mutex      sync.Mutex
	complaints []string
	elsewhere  []string
}

const patience = 20 * time.Second

func newBrowser(t *testing.T, own string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed (Debian package chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox) // as root there is no sandbox
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b := &browser{T: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		b.mutex.Lock()
		defer b.mutex.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.complaints = append(b.complaints, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError {
				b.complaints = append(b.complaints, e.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, own) {
				b.elsewhere = append(b.elsewhere, e.Request.URL)
			}
		}
	})
	b.run(network.Enable(), log.Enable(), chromedp.Navigate(own))
	return b
}

func (b *browser) run(actions ...chromedp.Action) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	// The context of the tab must outlive this one: chromedp ties both together at the first run.
	if chromedp.FromContext(b.ctx).Target == nil {
		if err := chromedp.Run(b.ctx, actions...); err != nil {
			b.Fatal(err)
		}
		return
	}
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.shot("failed")
		b.Fatal(err)
	}
}

func (b *browser) text(selector string) (text string) {
	b.Helper()
	b.run(chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// await waits until an expression of the page is true.
func (b *browser) await(expression string) {
	b.Helper()
	var ok bool
	b.run(chromedp.Poll(expression, &ok, chromedp.WithPollingTimeout(patience)))
}

func (b *browser) evaluate(expression string) (value float64) {
	b.Helper()
	b.run(chromedp.Evaluate(expression, &value))
	return value
}

func (b *browser) shot(name string) {
	b.Helper()
	if *shots == "" {
		return
	}
	var png []byte
	if err := chromedp.Run(b.ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
		b.Error(err)
		return
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o600); err != nil {
		b.Error(err)
	}
}

// atEase fails where the page complained or looked elsewhere.
func (b *browser) atEase() {
	b.Helper()
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.complaints) > 0 || len(b.elsewhere) > 0 {
		b.Errorf("complaints %q, requests elsewhere %q", b.complaints, b.elsewhere)
	}
}

func startDev(t *testing.T, flags ...string) (url, kafkaAddr string) {
	t.Helper()
	addr, kafkaAddr := proctest.FreeAddr(t), proctest.FreeAddr(t)
	worker := proctest.Start(t, "worker", append([]string{
		"dev", "--dev-kafka-addr", kafkaAddr, "--dev-redis-addr", "127.0.0.1:0", "--http-addr", addr,
	}, flags...)...)
	worker.AwaitOutput(t, "Serving.")
	return "http://" + addr + "/", kafkaAddr
}

func TestThePageShowsWhatIsDecidedAndWhatACustomerHas(t *testing.T) {
	url, kafkaAddr := startDev(t)
	out := proctest.Run(t, nil, "producer", "command", "entity.create", "--kafka-brokers", kafkaAddr, "--customer", "acme", "--entity", "seat-1", "--feature", "seats")
	if out.Code != 0 {
		t.Fatalf("%s%s", out.Stdout, out.Stderr)
	}
	b := newBrowser(t, url)
	b.run(chromedp.EmulateViewport(1280, 900))
	b.await(`document.querySelectorAll('#latest tr').length > 3 && document.getElementById('rate').textContent !== '–'`)
	if about := b.text("#about"); !strings.Contains(about, "catalogue") {
		t.Errorf("the header says %q", about)
	}

	// With the keyboard alone: "/" leads to the search.
	b.run(input.DispatchKeyEvent(input.KeyDown).WithKey("/").WithText("/"), chromedp.KeyEvent("acme"), chromedp.KeyEvent(kb.Enter))
	b.await(`document.querySelector('#profile .bar i') !== null`)
	profile := b.text("#profile")
	for _, want := range []string{"messages", "left", "2 entities", "Plans:"} {
		if !strings.Contains(profile, want) {
			t.Errorf("no %q in %q", want, profile)
		}
	}
	b.shot("desktop")

	before := b.evaluate(`Number(document.querySelector('#profile [aria-label^="messages"]').getAttribute('aria-label').match(/: ([\d,.]+) of/)[1].replaceAll(',', ''))`)
	b.run(
		chromedp.SetValue("#check-feature", "messages", chromedp.ByQuery), chromedp.SetValue("#check-amount", "2", chromedp.ByQuery),
		chromedp.Focus("#check-send", chromedp.ByQuery), chromedp.KeyEvent(" "), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter),
	)
	b.await(`document.querySelector('#answer .code')?.textContent === 'included'`)
	b.await(fmt.Sprintf(`document.querySelector('#profile [aria-label^="messages"]').getAttribute('aria-label').replaceAll(',', '').includes(': %g of')`, before-2))
	b.shot("checked")

	b.run(chromedp.SetValue("#customer", "<b>nobody</b>", chromedp.ByQuery), chromedp.Click("#search button", chromedp.ByQuery))
	b.await(`document.querySelector('#profile .problem') !== null`)

	b.run(chromedp.SetValue("#customer", "acme", chromedp.ByQuery), chromedp.Click("#search button", chromedp.ByQuery))
	b.await(`document.querySelector('#profile .bar i') !== null`)
	b.run(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	if overflow := b.evaluate(`document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
		t.Errorf("on a phone the page is %g pixels too wide", overflow)
	}
	b.shot("phone")
	light := b.evaluate(`Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0])`)
	b.run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
	if dark := b.evaluate(`Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0])`); light < 200 || dark > 60 {
		t.Errorf("the background is %g by day and %g by night", light, dark)
	}
	b.shot("phone-dark")
	b.run(chromedp.EmulateViewport(1280, 900))
	b.shot("desktop-dark")
	b.atEase()
}

// heldAnswer is customer.get of a customer that holds so many locks.
func heldAnswer(locks int) []byte {
	var listed []string
	for n := range locks {
		listed = append(listed, fmt.Sprintf(`{"lock_id":"job-%d <b>","feature_id":"messages","entity_id":null,"value":0.5,"expires_at":1771416900000,"state":"held"}`, n))
	}
	balance := func(id string, held int) string {
		return fmt.Sprintf(`{"id":%q,"plan_id":null,"included_grant":2000,"prepaid_grant":0,"remaining":500,"usage":1500,"held":%d,"unlimited":false,"reset":null,"price":null,"expires_at":null}`, id, held)
	}
	return fmt.Appendf(nil, `{"ok":true,"customer":{"created_at":1771416000000},"plans":[],"flags":{},"entities":[],"locks":[%s],"balances":{"messages":{
		"feature_id":"messages","granted":4000,"remaining":1000,"usage":3000,"held":1200,"unlimited":false,"overage_allowed":false,"max_purchase":null,"next_reset_at":null,
		"breakdown":[%s,%s],"rollovers":[]}}}`, strings.Join(listed, ","), balance("gift", 1200), balance("other", 0))
}

func TestThePageShowsWhatIsHeld(t *testing.T) {
	locks := 2
	server := httptest.NewServer(console.Handler(console.Options{
		Gatherer: prometheus.NewRegistry(), Feed: &console.Feed{}, Features: func() []string { return []string{} },
		Customer: func(context.Context, string) ([]byte, error) { return heldAnswer(locks), nil },
	}))
	defer server.Close()
	b := newBrowser(t, server.URL+"/")
	show := func() {
		b.run(chromedp.SetValue("#customer", "acme", chromedp.ByQuery), chromedp.Click("#search button", chromedp.ByQuery))
		b.await(fmt.Sprintf(`document.querySelectorAll('#locks tbody tr').length === %d`, min(locks, 200)))
	}
	show()
	profile := b.text("#profile")
	for _, want := range []string{"1,500 used (1,200 held)", "1,500 used\n", "1,200 held", "2 locks", "job-1 <b>", "0.5"} {
		if !strings.Contains(profile, want) {
			t.Errorf("no %q in %q", want, profile)
		}
	}
	if open := b.evaluate(`document.getElementById('locks').open ? 1 : 0`); open != 1 {
		t.Error("two locks are folded up")
	}
	b.run(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	if overflow := b.evaluate(`document.documentElement.scrollWidth - innerWidth`); overflow > 0 {
		t.Errorf("on a phone the page is %g pixels too wide", overflow)
	}
	b.shot("held-phone")
	locks = 1000
	show()
	if profile := b.text("#profile"); !strings.Contains(profile, "1000 locks") {
		t.Errorf("no 1000 locks in %q", profile)
	}
	if open := b.evaluate(`document.getElementById('locks').open ? 1 : 0`); open != 0 {
		t.Error("a thousand locks are not folded up")
	}
	b.atEase()
}

func TestWithoutConsoleWriteThereIsNoForm(t *testing.T) {
	url, _ := startDev(t, "--no-console-write")
	b := newBrowser(t, url)
	b.await(`document.querySelectorAll('#latest tr').length > 3`)
	if shown := b.evaluate(`document.getElementById('check-section').checkVisibility() ? 1 : 0`); shown != 0 {
		t.Error("the form is there")
	}
	b.atEase()
}

func TestThePageSaysWhenTheWorkerIsGone(t *testing.T) {
	addr := proctest.FreeAddr(t)
	worker := proctest.Start(t, "worker", "dev", "--dev-kafka-addr", "127.0.0.1:0", "--dev-redis-addr", "127.0.0.1:0", "--http-addr", addr)
	worker.AwaitOutput(t, "Serving.")
	b := newBrowser(t, "http://"+addr+"/")
	b.await(`document.getElementById('about').textContent.includes('catalogue')`)
	worker.Kill()
	b.await(`document.getElementById('about').textContent === 'the worker does not answer'`)
}
