// What the host can ask of the guest: one word and its arguments.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// What `remember` was told; a snapshot has to carry it.
var remembered sync.Map

const timeout = 20 * time.Second

// echo N: the next N bytes come back.
func echo(from io.Reader, to io.Writer, arguments []string) {
	count, err := strconv.ParseInt(arguments[0], 10, 64)
	if err != nil {
		return
	}
	io.CopyN(to, from, count)
}

var commands = map[string]struct {
	arguments int
	run       func(a []string) (string, error)
}{
	"read":     {1, func(a []string) (string, error) { return readFile(a[0]) }},
	"device":   {2, func(a []string) (string, error) { return readDevice(a[0], a[1]) }},
	"write":    {2, func(a []string) (string, error) { return "", writeDevice(a[0], a[1]) }},
	"mac":      {1, func(a []string) (string, error) { return readFile("/sys/class/net/" + a[0] + "/address") }},
	"fetch":    {1, func(a []string) (string, error) { return fetch(http.MethodGet, a[0], nil) }},
	"metadata": {1, func(a []string) (string, error) { return metadata(a[0]) }},
	"download": {2, func(a []string) (string, error) { return download(a[0], a[1]) }},
	"dial":     {2, func(a []string) (string, error) { return "", dial(a[0], a[1]) }},
	"remember": {2, func(a []string) (string, error) { remembered.Store(a[0], a[1]); return "", nil }},
	"recall":   {1, recall},
}

func obey(command string, arguments []string) (string, error) {
	known, found := commands[command]
	if !found {
		return "", fmt.Errorf("no command %q", command)
	}
	if len(arguments) != known.arguments {
		return "", fmt.Errorf("%s takes %d arguments", command, known.arguments)
	}
	return known.run(arguments)
}

func recall(arguments []string) (string, error) {
	value, found := remembered.Load(arguments[0])
	if !found {
		return "", fmt.Errorf("%s was never told", arguments[0])
	}
	return value.(string), nil
}

func readFile(path string) (string, error) {
	content, err := os.ReadFile(path)
	return strings.TrimSpace(string(content)), err
}

// The first bytes of a drive, past the page cache.
func readDevice(path, bytes string) (string, error) {
	count, err := strconv.Atoi(bytes)
	if err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if err := unix.IoctlSetInt(int(file.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return "", err
	}
	content := make([]byte, count)
	_, err = io.ReadFull(file, content)
	return string(content), err
}

func writeDevice(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}

func fetch(method, url string, header http.Header) (string, error) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		return "", err
	}
	request.Header = header
	response, err := (&http.Client{Timeout: timeout}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(body), err
}

// A value of the metadata service, version 2: first a token, then the value in JSON.
func metadata(path string) (string, error) {
	const service = "http://169.254.169.254"
	token, err := fetch(http.MethodPut, service+"/latest/api/token",
		http.Header{"X-Metadata-Token-Ttl-Seconds": {"60"}})
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return fetch(http.MethodGet, service+path,
		http.Header{"X-Metadata-Token": {token}, "Accept": {"application/json"}})
}

// How many ms the next bytes of a connection take.
func download(address, bytes string) (string, error) {
	count, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return "", err
	}
	conn, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	started := time.Now()
	if _, err := io.CopyN(io.Discard, conn, count); err != nil {
		return "", err
	}
	return strconv.FormatInt(time.Since(started).Milliseconds(), 10), nil
}

// Says something to a port of the host.
func dial(port, text string) error {
	number, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		return err
	}
	conn, err := vsock.Dial(vsock.Host, uint32(number), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = fmt.Fprintln(conn, text)
	return err
}
