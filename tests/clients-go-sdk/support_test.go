// Tests of a VMM with Firecracker's API through firecracker-go-sdk, a client that knows nothing of us. They are built by
// tools/setup.sh clients and run by tests/firecracker-qemu-go-sdk.test.ts, which says where the VMM and the guest are:
// FIRECRACKER_BIN, GUEST_KERNEL and GUEST_INITRD.
package sdk

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/firecracker-microvm/firecracker-go-sdk/vsock"
	"github.com/sirupsen/logrus"
)

const (
	commandPort = 52
	helloPort   = 53
	// Long enough for an emulated machine on a busy host; nothing waits for its end.
	limit = 60 * time.Second
)

func TestMain(m *testing.M) {
	// The SDK's own limits, 500 ms a request and 3 s for the socket, are for a quiet host.
	for name, value := range map[string]string{
		"FIRECRACKER_GO_SDK_REQUEST_TIMEOUT_MILLISECONDS": "30000",
		"FIRECRACKER_GO_SDK_INIT_TIMEOUT_SECONDS":         "30",
	} {
		if os.Getenv(name) == "" {
			os.Setenv(name, value)
		}
	}
	os.Exit(m.Run())
}

func env(t *testing.T, name string) string {
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set", name)
	}
	return value
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is written by one goroutine and read by another.
type output struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (o *output) Write(bytes []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.Write(bytes)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.String()
}

// A machine of the SDK's with the guest of guest/main.go in it.
type machine struct {
	*firecracker.Machine
	test      *testing.T
	directory string
	vsockPath string
	// The VMM's standard output and error, and what the SDK logs
	said *output
}

// The configuration of a machine with everything in a new directory; a test adds its devices.
func configuration(t *testing.T) firecracker.Config {
	directory, err := os.MkdirTemp("", "tb-sdk-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(directory) })
	return firecracker.Config{
		VMID:            "tb-sdk",
		SocketPath:      filepath.Join(directory, "api.sock"),
		KernelImagePath: env(t, "GUEST_KERNEL"),
		InitrdPath:      env(t, "GUEST_INITRD"),
		KernelArgs:      "quiet panic=-1 reboot=k",
		MachineCfg:      models.MachineConfiguration{VcpuCount: firecracker.Int64(1), MemSizeMib: firecracker.Int64(256)},
		VsockDevices:    []firecracker.VsockDevice{{Path: filepath.Join(directory, "vsock.sock"), CID: 3}},
	}
}

// A drive of 1 MiB that begins with `text`.
func newDrive(t *testing.T, cfg *firecracker.Config, id, text string) models.Drive {
	path := filepath.Join(filepath.Dir(cfg.SocketPath), id+".img")
	newFile(t, path, text, 1<<20)
	return models.Drive{
		DriveID:      firecracker.String(id),
		PathOnHost:   firecracker.String(path),
		IsRootDevice: firecracker.Bool(false),
		IsReadOnly:   firecracker.Bool(true),
	}
}

func newFile(t *testing.T, path, text string, size int64) {
	must(t, os.WriteFile(path, []byte(text), 0o600))
	must(t, os.Truncate(path, size))
}

// A machine that is not started yet. It ends with `ctx`.
func newMachine(ctx context.Context, t *testing.T, cfg firecracker.Config, options ...firecracker.Opt) *machine {
	m := &machine{test: t, directory: filepath.Dir(cfg.SocketPath), said: &output{}}
	m.vsockPath = filepath.Join(m.directory, "vsock.sock")
	logger := logrus.New()
	logger.SetOutput(m.said)
	command := firecracker.VMCommandBuilder{}.
		WithBin(env(t, "FIRECRACKER_BIN")).
		WithSocketPath(cfg.SocketPath).
		WithArgs([]string{"--id", cfg.VMID, "--no-seccomp"}).
		WithStdout(m.said).
		WithStderr(m.said).
		Build(ctx)
	options = append([]firecracker.Opt{
		firecracker.WithProcessRunner(command),
		firecracker.WithLogger(logrus.NewEntry(logger)),
	}, options...)
	made, err := firecracker.NewMachine(ctx, cfg, options...)
	must(t, err)
	m.Machine = made
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", m.said)
		}
	})
	return m
}

// Starts the machine; the guest has said hello when this returns. It is stopped at the end of the test.
func (m *machine) boot(ctx context.Context) {
	m.test.Helper()
	listener, err := net.Listen("unix", fmt.Sprintf("%s_%d", m.vsockPath, helloPort))
	must(m.test, err)
	defer listener.Close()
	m.start(ctx)
	listener.(*net.UnixListener).SetDeadline(time.Now().Add(limit))
	conn, err := listener.Accept()
	must(m.test, err)
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		m.test.Fatalf("the guest said %q, %v", line, err)
	}
}

func (m *machine) start(ctx context.Context) {
	m.test.Helper()
	must(m.test, m.Start(ctx))
	m.test.Cleanup(m.stop)
}

// Ends the VMM, if it has not ended, and waits for that.
func (m *machine) stop() {
	must(m.test, m.StopVMM())
	wait, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m.Wait(wait)
	if wait.Err() != nil {
		m.test.Errorf("the VMM did not end after StopVMM")
	}
}

// Asks the guest by the SDK's vsock dial; what the guest refuses is an error.
func (m *machine) try(ctx context.Context, command string, arguments ...any) (string, error) {
	conn, err := vsock.DialContext(ctx, m.vsockPath, commandPort)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, has := ctx.Deadline(); has {
		conn.SetDeadline(deadline)
	}
	fmt.Fprintln(conn, append([]any{command}, arguments...)...)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	word, quoted, _ := strings.Cut(strings.TrimSpace(line), " ")
	text, err := strconv.Unquote(quoted)
	if err == nil && word != "OK" {
		err = fmt.Errorf("%s: %s", command, text)
	}
	return text, err
}

func (m *machine) ask(t *testing.T, command string, arguments ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	text, err := m.try(ctx, command, arguments...)
	must(t, err)
	return text
}

func equal[T comparable](t *testing.T, what string, is, shall T) {
	t.Helper()
	if is != shall {
		t.Errorf("%s is %v, not %v", what, is, shall)
	}
}

// Looks until it fits.
func eventually(t *testing.T, what string, fits func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !fits(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A network namespace with a tap, the host's end of which has the address 10.9.0.1/24.
func newTapNamespace(t *testing.T, name, tap string) string {
	ip := func(arguments ...string) {
		t.Helper()
		if said, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", arguments, err, said)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { ip("netns", "delete", name) })
	ip("-n", name, "tuntap", "add", "dev", tap, "mode", "tap")
	ip("-n", name, "address", "add", "10.9.0.1/24", "dev", tap)
	ip("-n", name, "link", "set", tap, "up")
	ip("-n", name, "link", "set", "lo", "up")
	return filepath.Join("/var/run/netns", name)
}
