package command

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// printer prints to a terminal, a file or a pipe.
type printer struct {
	io.Writer
	terminal bool
	colour   bool
}

func newPrinter(w io.Writer) *printer {
	p := &printer{Writer: w}
	if f, ok := w.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	p.colour = p.terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return p
}

// printf ignores errors of writing. It is for messages.
func (p *printer) printf(format string, args ...any) { _, _ = fmt.Fprintf(p, format, args...) }

// The colours of a terminal.
const (
	dim    = "2"
	red    = "31"
	yellow = "33"
	cyan   = "36"
)

func (p *printer) paint(colour, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// table prints rows in columns. The first row is the header.
func (p *printer) table(rows [][]string) error {
	w := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// printable returns a text of the API with control characters escaped, so that it can
// neither control a terminal nor break a table.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		quoted := strconv.Quote(text)
		return quoted[1 : len(quoted)-1]
	}
	return text
}

// orElse returns the text, or none if it is empty.
func orElse(text, none string) string {
	if text == "" {
		return none
	}
	return printable(text)
}

// shortList returns the first names of a list, and the number of the others.
func shortList(list []string) string {
	const room = 3
	var names []string
	for _, name := range list[:min(room, len(list))] {
		names = append(names, printable(name))
	}
	text := strings.Join(names, ", ")
	if more := len(list) - room; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// count returns a number with its noun.
func count(n int, one, plural string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(int64(n)) + " " + plural
}

// ago returns a time relative to now, for example "3 hours ago".
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return humanize.Time(t)
}
