#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The upstream simulator itself: everything else is tested against it, so it had better be right. Nothing here depends
# on how fast anything is: what has to happen first is waited for, through the simulator's own counters and signals.
use strict;
use warnings;
use Errno qw(EINTR ECONNRESET);
use File::Temp ();
use FindBin;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep clock_gettime CLOCK_MONOTONIC);

my $root = "$FindBin::Bin/../..";
my $program = $ENV{CHATSTREAM_UPSTREAM} || ($ENV{CHATSTREAM_BUILDDIR} || $root) . '/tools/chatstream-upstream';
-x $program or die "$program is not there: build it, or say where it is with CHATSTREAM_UPSTREAM\n";

my $have_ssl = eval { require IO::Socket::SSL; 1 };
my $dir = File::Temp->newdir('chatstream-upstream-XXXXXX', TMPDIR => 1);
my ($cert, $key) = ("$dir/cert.pem", "$dir/key.pem");
my $pid;
my $owner = $$;
local $SIG{ALRM} = sub { die "the test hangs\n" };
local $SIG{PIPE} = 'IGNORE';
alarm 300;

END {
    if ($pid && $$ == $owner) {
        my $status = $?;
        kill KILL => $pid;
        waitpid $pid, 0;
        $? = $status;
    }
}

sub slurp
{
    my ($file) = @_;
    open my $in, '<', $file or return '';
    local $/;
    return scalar(<$in>) // '';
}

sub openssl
{
    my @command = qw(openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout);
    open my $old, '>&', \*STDERR or die;
    open STDERR, '>', '/dev/null' or die;
    my $failed = system @command, $key, '-out', $cert;
    open STDERR, '>&', $old or die;
    return !$failed;
}

sub start
{
    my (@options) = @_;
    unlink "$dir/port", "$dir/port2", "$dir/out";
    $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>', "$dir/out" or die;
        open STDERR, '>', "$dir/err" or die;
        exec $program, @options or exit 127;
    }
    for (1 .. 3000) {
        return if grep({ $_ eq '--port-file' } @options) ? -s "$dir/port" : -s "$dir/out";
        waitpid($pid, 1) == $pid and do { undef $pid; die 'it did not start: ', slurp("$dir/err") };
        sleep 0.01;
    }
    die 'it did not start in time';
}

# ---- a client that keeps its connection ----

my ($port, $tls_port);

sub dial
{
    my ($kind) = @_;
    my $socket =
        ($kind // '') eq 'unix' ? IO::Socket::UNIX->new(Peer => "$dir/socket")
      : ($kind // '') eq 'tls'  ? IO::Socket::SSL->new(PeerAddr => "127.0.0.1:$tls_port", SSL_verify_mode => 0)
      :                           IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port");
    die "cannot connect: $@ $!" if !$socket;
    return { socket => $socket, in => '' };
}

sub more
{
    my ($c) = @_;
    while (1) {
        my $got = sysread $c->{socket}, $c->{in}, 65536, length $c->{in};
        $c->{reads}++;
        return $got if defined $got || $! != EINTR;
    }
}

sub ask
{
    my ($c, $target, $body, %o) = @_;
    my $method = $o{method} // (defined $body ? 'POST' : 'GET');
    my $version = $o{version} // '1.1';
    my $text = "$method $target HTTP/$version\r\nHost: test\r\n" . ($o{fields} // '');
    $text .= 'Content-Length: ' . length($body) . "\r\n" if defined $body && !$o{chunked};
    $text .= "\r\n";
    $text .= $body if defined $body;
    while (length $text) {
        my $sent = syswrite $c->{socket}, $text;
        die "cannot send: $!" if !$sent;
        substr $text, 0, $sent, '';
    }
    return $c;
}

sub take
{
    my ($c, $bytes) = @_;
    while (length $c->{in} < $bytes) {
        more($c) or return;
    }
    return substr $c->{in}, 0, $bytes, '';
}

sub take_line
{
    my ($c) = @_;
    while (index($c->{in}, "\r\n") < 0) {
        more($c) or return;
    }
    my $line = substr $c->{in}, 0, index($c->{in}, "\r\n") + 2, '';
    return substr $line, 0, -2;
}

sub head
{
    my ($c) = @_;
    my $line = take_line($c) // return;
    my %r = (line => $line, status => (split ' ', $line)[1], fields => {});
    while (length($line = take_line($c) // return)) {
        my ($name, $value) = split /:\s*/, $line, 2;
        $r{fields}{ lc $name } = $value;
    }
    return \%r;
}

# The whole answer; `complete` says whether it ended as HTTP says it must.
sub answer
{
    my ($c) = @_;
    my $r = head($c) or return { status => 0, body => '', chunks => [], complete => 0 };
    @$r{qw(body chunks complete)} = ('', [], 0);
    if (defined(my $length = $r->{fields}{'content-length'})) {
        my $body = take($c, $length);
        @$r{qw(body complete)} = defined $body ? ($body, 1) : ($c->{in}, 0);
    }
    elsif (($r->{fields}{'transfer-encoding'} // '') eq 'chunked') {
        while (defined(my $size = take_line($c))) {
            my $chunk = take($c, hex $size) // last;
            (take_line($c) // last) eq '' or die 'a chunk does not end';
            if (hex $size == 0) {
                $r->{complete} = 1;
                last;
            }
            push @{ $r->{chunks} }, $chunk;
            $r->{body} .= $chunk;
        }
    }
    elsif ($r->{status} != 204) {
        1 while more($c);
        $r->{body} = $c->{in};
        $r->{complete} = 1;
    }
    return $r;
}

sub get { my ($target, $body, %o) = @_; return answer(ask(dial($o{via}), $target, $body, %o)) }
sub json { return JSON::PP->new->utf8->decode($_[0]) }
sub count { return json(get('/_count')->{body}) }
sub script { my ($name, $text) = @_; return get("/_script/$name", $text, method => 'PUT') }
sub raise { return get("/_signal/$_[0]", '', method => 'POST')->{status} }
sub wait_for { return get("/_wait/$_[0]?timeout=" . ($_[1] // 60000))->{status} }
sub reset_all { return get('/_reset', '', method => 'POST')->{status} }

sub read_until
{
    my ($c, $what) = @_;
    while (index($c->{in}, $what) < 0) {
        more($c) or return 0;
    }
    return 1;
}

sub data_of { return map { /^data: (\{.*)/ ? json($1) : () } split /\n/, $_[0] }

# ---- start ----

my $have_cert = openssl();
start('--listen', '127.0.0.1:0', '--unix', "$dir/socket", '--port-file', "$dir/port", '--port-file', "$dir/port2",
    $have_cert ? ('--tls', $cert, $key) : (), '--listen', '127.0.0.1:0');
($port) = slurp("$dir/port") =~ /^(\d+)\n\z/;
($tls_port) = slurp("$dir/port2") =~ /^(\d+)\n\z/;
ok $port, 'the port file holds the port, one line';
is slurp("$dir/out"), "listening 127.0.0.1:$port\nlistening unix:$dir/socket\nlistening 127.0.0.1:$tls_port\n",
    'stdout says where it listens';

subtest 'dialects' => sub {
    my $question = '{"message":"one two three"}';
    my $r = get('/sse?tokens=3&size=5', $question);
    is $r->{status}, 200, 'sse: status';
    is $r->{fields}{'content-type'}, 'text/event-stream', 'sse: type';
    my @events = data_of($r->{body});
    is join('', map { $_->{content} // '' } @events), 'the river runs ', 'sse: three tokens of five bytes';
    is_deeply $events[-1],
        { type => 'done', finish_reason => 'stop', usage => { prompt_tokens => 3, completion_tokens => 3 } },
        'sse: done';
    ok $r->{complete}, 'sse: the body ends properly';
    unlike get('/sse?tokens=1&usage=0', $question)->{body}, qr/usage/, 'sse: usage=0';
    unlike get('/sse?tokens=1&done=0', $question)->{body}, qr/done/, 'sse: done=0';

    $r = get('/openai?tokens=2', '{"messages":[{"role":"user","content":[{"type":"text","text":"a b"}]}]}');
    @events = data_of($r->{body});
    is scalar @events, 5, 'openai: role, two tokens, finish, usage';
    is $events[0]{choices}[0]{delta}{role}, 'assistant', 'openai: the role comes first';
    is $events[2]{choices}[0]{delta}{content}, 'r runs s', 'openai: content';
    is $events[3]{choices}[0]{finish_reason}, 'stop', 'openai: finish reason';
    is_deeply $events[4]{usage}, { prompt_tokens => 2, completion_tokens => 2, total_tokens => 4 }, 'openai: usage';
    is_deeply $events[4]{choices}, [], 'openai: no choices with the usage';
    is scalar(grep { $_->{object} ne 'chat.completion.chunk' || $_->{id} ne $events[0]{id} } @events), 0, 'openai: id';
    like $r->{body}, qr/\ndata: \[DONE\]\n\n\z/, 'openai: [DONE]';
    unlike get('/openai?done=0', '{}')->{body}, qr/DONE/, 'openai: done=0';

    $r = get('/text?tokens=4&size=3', $question);
    is $r->{fields}{'content-type'}, 'text/plain; charset=utf-8', 'text: type';
    is $r->{body}, 'the river ru', 'text: raw bytes';
    $r = get('/text?tokens=50&size=13&text=utf8', $question);
    is length $r->{body}, 650, 'text: utf8 has the exact size';
    ok utf8::decode($r->{body}), 'text: and is UTF-8';
    like $r->{body}, qr/\x{1F642}/, 'text: with an emoji';

    @events = data_of(get('/anthropic?tokens=2', '{"messages":[{"role":"user","content":"hi"}]}')->{body});
    is join(' ', map { $_->{type} } @events),
        'message_start content_block_start ping content_block_delta content_block_delta content_block_stop '
        . 'message_delta message_stop', 'anthropic: the order of events';
    is $events[3]{delta}{text}, 'the rive', 'anthropic: text';
    is $events[6]{usage}{output_tokens}, 2, 'anthropic: usage';

    @events = data_of(get('/responses?tokens=2', '{"input":"hi"}')->{body});
    is join(' ', map { $_->{sequence_number} } @events), join(' ', 0 .. 9), 'responses: sequence numbers';
    is $events[-1]{type}, 'response.completed', 'responses: completed';
    is $events[-1]{response}{output}[0]{content}[0]{text}, 'the river runs s', 'responses: the whole text at the end';
    is $events[-1]{response}{usage}{total_tokens}, 3, 'responses: usage';

    $r = get('/ollama?tokens=2', '{"prompt":"hi"}');
    my @lines = map { json($_) } split /\n/, $r->{body};
    is $r->{fields}{'content-type'}, 'application/x-ndjson', 'ollama: type';
    is join('|', map { $_->{message}{content} } @lines), 'the rive|r runs s|', 'ollama: content';
    ok $lines[2]{done} && $lines[2]{eval_count} == 2, 'ollama: the last line';
};

subtest 'behaviour by query' => sub {
    my $r = get('/sse?status=429&retry_after=7', '{}');
    is "$r->{status} $r->{fields}{'retry-after'}", '429 7', 'status and Retry-After';
    is json($r->{body})->{error}{message}, 'SECRET-upstream-detail', 'error body';
    is get('/nowhere')->{status}, 404, 'another path';
    is get('/sse?tokns=3')->{status}, 400, 'a misspelt parameter';
    is get('/sse?tokens=3x')->{status}, 400, 'a wrong value';
    is get('/sse?script=none')->{status}, 404, 'an unknown script';

    $r = get('/sse?reply=echo', '{"message":"K\u00e4se \"und\"\nBrot"}');
    my $text = join '', map { $_->{content} // '' } data_of($r->{body});
    like $text, qr/You wrote: K\x{e4}se "und"\nBrot\z/, 'echo';
    my @tokens = data_of($r->{body});
    is $tokens[-2]{content}, 'Brot', 'echo: word by word';

    my $before = clock_gettime(CLOCK_MONOTONIC) * 1e9;
    $r = get('/sse?tokens=5&rate=200&stamp=1&size=40&delay=10&first=10', '{}');
    my @stamps = map { ($_->{content} // '') =~ /^\@(\d{19})\@.{19}\z/ ? $1 : () } data_of($r->{body});
    is scalar @stamps, 5, 'every token is stamped and has its size';
    is scalar @{ $r->{chunks} }, 6, 'rate: every token and the end have a chunk of their own';
    is scalar(grep { $stamps[$_] - $before < 20e6 + $_ * 5e6 } 0 .. 4), 0, 'no token comes before it is due';
    is scalar(grep { $stamps[$_] < $stamps[$_ - 1] } 1 .. 4), 0, 'time does not go back';

    my $whole = get('/openai?tokens=5&text=utf8', '{}')->{body};
    for my $n (1, 2, 7, 1000) {
        (my $split = get("/openai?tokens=5&text=utf8&split=$n", '{}')->{body}) =~ s/(sim|"created":)\d+/$1/g;
        (my $plain = $whole) =~ s/(sim|"created":)\d+/$1/g;
        is $split, $plain, "split=$n changes no byte";
    }
    my $long = get('/text?tokens=100000&size=20', '{}');
    is length $long->{body}, 2_000_000, 'a burst of two megabytes';
};

subtest 'connections' => sub {
    is reset_all(), 200, 'reset';
    my $c = dial();
    for my $n (1 .. 5) {
        my $r = answer(ask($c, '/sse?tokens=2', qq({"message":"$n"})));
        ok $r->{complete} && $r->{status} == 200, "request $n on the same connection";
    }
    is answer(ask($c, '/_count'))->{status}, 200, 'control on the same connection';
    is_deeply count(), { requests => 5, active => 0, finished => 5, aborted => 0, connections => 1 }, 'counts';

    syswrite $c->{socket}, join '', map { "GET /text?tokens=1&size=$_ HTTP/1.1\r\nHost: x\r\n\r\n" } 1 .. 20;
    is join(' ', map { length answer($c)->{body} } 1 .. 20), join(' ', 1 .. 20), 'pipelined requests';

    my $r = answer(ask($c, '/sse?close=1', '{}'));
    is $r->{fields}{connection}, 'close', 'close=1: says so';
    is more($c), 0, 'close=1: and does so';
    $c = dial();
    $r = answer(ask($c, '/sse?tokens=1', '{}', version => '1.0'));
    ok !$r->{fields}{'transfer-encoding'} && $r->{body} =~ /"type":"done"/, 'HTTP/1.0: ends with the connection';

    $r = get('/text?reply=echo', "5\r\n{\"mes\r\nA;x=y\r\nsage\":\"hi\"\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n",
        chunked => 1, fields => "Transfer-Encoding: chunked\r\n");
    like $r->{body}, qr/You wrote: hi\z/, 'a chunked request body';
    $c = dial();
    my $body = '{"message":"slow"}';
    for my $byte (split //, "POST /text?reply=echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\n") {
        syswrite $c->{socket}, $byte;
    }
    is head($c)->{status}, 100, '100 Continue, the head coming byte by byte';
    syswrite $c->{socket}, $_ for split //, $body;
    like answer($c)->{body}, qr/slow\z/, 'and the body too';
    is get('/sse', undef, fields => "X-Big: @{[ 'x' x 70000 ]}\r\n")->{status}, 431, 'a head beyond 64 KiB';
    is get('/sse', undef, method => 'POST', fields => "Content-Length: 9000000\r\n")->{status}, 413, 'a huge body';
    is get('/sse', "zz\r\n", chunked => 1, fields => "Transfer-Encoding: chunked\r\n")->{status}, 400, 'a bad chunk';
    is get('sse')->{status}, 400, 'a bad request line';
    my $big = '{"message":"' . 'w ' x 1_000_000 . '"}';
    my $small = length get('/text?reply=echo', '{"message":"w "}')->{body};
    is length(get('/text?reply=echo', $big)->{body}), $small + 1_999_998,
        'a body of two megabytes';
};

subtest 'requests remembered' => sub {
    reset_all();
    get('/sse?tokens=1', '{}');
    get("/text?tokens=$_") for 2 .. 60;
    my $list = json(get('/_requests')->{body});
    is scalar @$list, 50, 'the last fifty';
    is_deeply [ @{ $list->[-1] }{qw(n method path query body)} ], [ 60, 'GET', '/text', 'tokens=60', '' ], 'in order';
    reset_all();
    get('/sse?tokens=1', "{\"message\":\"\x{c3}\x{a4} \xff\"}",
        fields => "X-One: a\r\nx-ONE: b\r\nAuthorization: Bearer k\r\n");
    my ($r) = @{ json(get('/_requests')->{body}) };
    is $r->{headers}{'x-one'}, 'a, b', 'header names in lower case, repeated ones joined';
    is $r->{headers}{authorization}, 'Bearer k', 'any header';
    is $r->{body}, "{\"message\":\"\x{e4} \x{fffd}\"}", 'the body, what is not UTF-8 replaced';
    is_deeply [ $r->{method}, $r->{n} ], [ 'POST', 1 ], 'numbers begin anew after a reset';
};

subtest 'scripts' => sub {
    reset_all();
    is script(two => <<'X')->{status}, 200, 'put';
# a handshake, no sleep
status 202
header X-Said: yes: $n
token Hel
signal first
wait seen
    token lo $message
send : $n \x41\\\n\n
done
X
    my $c = ask(dial(), '/sse?script=two', '{"message":"\"you\""}');
    ok read_until($c, "data: {\"content\":\"Hel\"}\n\n"), 'the first token is here';
    is count()->{active}, 1, 'the answer is active';
    unlike $c->{in}, qr/lo/, 'the second is withheld';
    is raise('seen'), 200, 'signal';
    my $r = answer($c);
    is "$r->{status} $r->{fields}{'x-said'}", '202 yes: $n', 'status and header';
    like $r->{body}, qr/"lo \\"you\\""\}\n\n: 1 A\\\n\ndata: \{"type":"done"/, 'variables, escapes, done';
    ok $r->{complete}, 'ends properly';
    ok answer(ask($c, '/sse?script=two', '{}'))->{complete}, 'the signal stays raised; the connection is reused';
    is get('/_signal/seen', undef, method => 'DELETE')->{status}, 200, 'lower it';
    $c = ask(dial(), '/openai?script=two', '{}');
    ok read_until($c, '"Hel"'), 'again';
    script(two => "send replaced\n");
    raise('seen');
    like answer($c)->{body}, qr/"lo ".*\[DONE\]/s, 'it waited again, and a replaced script is followed to its end';
    is get('/sse?script=two')->{body}, 'replaced', 'the new one';

    script(loop => "repeat 3\n repeat 2\n  send a\n end\n repeat 0\n  send never\n end\n send b\nend\n"
        . "repeat 100000\nend\n");
    is get('/sse?script=loop')->{body}, 'aabaabaab', 'nested repeats';
    is scalar @{ get('/sse?script=loop')->{chunks} }, 9, 'each send is its own write';
    script(sized => "length 5\nheader Content-Type: text/x\nsend hello\n");
    $c = dial();
    $r = answer(ask($c, '/sse?script=sized'));
    is "$r->{fields}{'content-length'} $r->{fields}{'content-type'} $r->{body}", '5 text/x hello', 'length and type';
    ok answer(ask($c, '/sse?script=sized'))->{complete}, 'reused after a length';
    script(short => "length 9\nsend hello\n");
    $r = get('/sse?script=short');
    ok !$r->{complete} && $r->{body} eq 'hello', 'shorter than its length: the connection ends';
    script(garbage => "raw \\x16\\x03 not HTTP\\r\\n\n");
    $c = ask(dial(), '/sse?script=garbage');
    1 while more($c);
    is $c->{in}, "\x16\x03 not HTTP\r\n", 'raw instead of a head';
    script(early => "raw HTTP/1.1 103 Early Hints\\r\\n\\r\\n\nsend x\nraw zz\\r\\n\nsend y\n");
    $c = ask(dial(), '/sse?script=early');
    is head($c)->{status}, 103, 'raw before a head';
    is head($c)->{status}, 200, 'and the head';
    ok read_until($c, "1\r\nx\r\nzz\r\n1\r\ny\r\n0\r\n\r\n"), 'raw between chunks';
    script(empty => "status 204\n");
    is get('/sse?script=empty')->{status}, 204, 'a head alone';
    script(slow => "headers\nsleep 5\nsend z\n");
    is get('/sse?script=slow')->{body}, 'z', 'sleep';

    my %wrong = (
        verb => "sand x\n", number => "sleep x\n", order => "send x\nstatus 200\n", end => "end\n",
        'repeat' => "repeat 2\n", escape => "send \\q\n", hex => "send \\x4\n", name => "wait a b\n", header => "header\n",
        extra => "cut now\n",
        depth => "repeat 1\n" x 9 . "end\n" x 9,
    );
    for my $name (sort keys %wrong) {
        my $bad = script(bad => "# comment\n$wrong{$name}");
        ok $bad->{status} == 400 && $bad->{body} =~ /line \d/, "refused: $name";
    }
};

subtest 'ends that are none' => sub {
    reset_all();
    script(cut => "token a\nwait go\ncut\n");
    my $c = ask(dial(), '/sse?script=cut');
    ok read_until($c, "\"a\"}\n\n\r\n"), 'cut: the token';
    raise('go');
    ok !defined more($c) && $! == ECONNRESET, 'cut: a reset';
    script(close => "token a\nclose\n");
    $c = ask(dial(), '/sse?script=close');
    my $r = answer($c);
    ok !$r->{complete} && $r->{body} =~ /"a"/, 'close: the body has no end';
    is more($c), 0, 'close: a FIN';
    script(none => "close\n");
    $c = ask(dial(), '/sse?script=none');
    is more($c), 0, 'close before any head';
    is_deeply count(), { requests => 3, active => 0, finished => 0, aborted => 0, connections => 3 },
        'neither finished nor aborted';

    my %gone = (stall => "token a\nstall\n", sleep => "token a\nsleep 3600000\n", wait => "token a\nwait never\n",
        headless => "signal here\nstall\n");
    my $aborted = 0;
    for my $name (sort keys %gone) {
        script($name => $gone{$name});
        $c = ask(dial(), "/sse?script=$name");
        is wait_for('active/1'), 200, "$name: it is being answered";
        close $c->{socket};
        is wait_for('aborted/' . ++$aborted), 200, "$name: a client that left is noticed";
    }
    $c = ask(dial(), '/sse?rate=1&tokens=100000');
    is wait_for('active/1'), 200, 'paced: it is being answered';
    close $c->{socket};
    is wait_for('aborted/5'), 200, 'paced: a client that left is noticed';
    $c = ask(dial(), '/sse?delay=3600000');
    is wait_for('requests/9'), 200, 'delayed: it is counted';
    close $c->{socket};
    is wait_for('active/0'), 200, 'delayed: a client that left is noticed';
    is wait_for('finished/1', 1), 408, 'a wait that ends without the count';
    is get('/_wait/sometimes/1')->{status}, 404, 'a wait for something unknown';

    my $stalled = ask(dial(), '/sse?script=stall');
    is wait_for('active/1'), 200, 'stalled again';
    reset_all();
    is count()->{active}, 0, 'an answer from before the reset counts no more';
    close $stalled->{socket};
    get('/sse?tokens=1');
    is_deeply count(), { requests => 1, active => 0, finished => 1, aborted => 0, connections => 1 },
        'nor when it ends';
};

subtest 'backpressure' => sub {
    reset_all();
    script(much => "fill 3 \\n\nfill 100000000 Q\ndone\n");
    my $c = ask(dial(), '/sse?script=much');
    ok read_until($c, "\r\n\r\n3\r\n\n\n\n\r\n"), 'the first fill';
    is wait_for('finished/1', 50), 408, 'a client that does not read holds it back';
    my ($total, $bytes) = (0, '');
    while (!$bytes || substr($bytes, -5) ne "0\r\n\r\n") {
        sysread $c->{socket}, my $piece, 1 << 20 or last;
        $total += ($piece =~ tr/Q//);
        $bytes = substr $bytes . $piece, -5;
    }
    $total += ($c->{in} =~ tr/Q//);
    is $total, 100_000_000, 'every byte arrives';
    is wait_for('finished/1'), 200, 'and then it is finished';
};

subtest 'Unix socket' => sub {
    reset_all();
    my $c = dial('unix');
    my $r = answer(ask($c, '/openai?tokens=3&split=3', '{}'));
    ok $r->{complete} && $r->{body} =~ /DONE/, 'an answer';
    ok answer(ask($c, '/sse?tokens=3', '{}'))->{complete}, 'and another';
    script(stall => "token a\nstall\n");
    ask($c, '/sse?script=stall');
    ok read_until($c, '"a"'), 'a stalled one';
    close $c->{socket};
    is wait_for('aborted/1'), 200, 'a client that left is noticed';
};

SKIP: {
    skip 'no IO::Socket::SSL or no openssl command', 1 if !$have_ssl || !$have_cert;
    subtest 'TLS' => sub {
        reset_all();
        my $c = dial('tls');
        my $r = answer(ask($c, '/sse?tokens=3', '{}'));
        ok $r->{complete} && $r->{body} =~ /done/, 'an answer';
        $c->{reads} = 0;
        ok answer(ask($c, '/sse?tokens=100', '{}'))->{complete}, 'another on the same connection';
        is $c->{reads}, 1, 'a burst, head and all, is one write';
        # A TLS record is never joined with the next: what the writes were can be seen.
        $c->{reads} = 0;
        ask($c, '/sse?tokens=2&split=1', '{}');
        1 while more($c) && index($c->{in}, "0\r\n\r\n") < 0;
        is $c->{reads}, length $c->{in}, 'split=1 is a write per byte';
        $c->{in} = '';
        script(cut => "token a\nwait go\ncut\n");
        ask($c, '/sse?script=cut');
        ok read_until($c, '"a"'), 'a token';
        raise('go');
        ok !more($c), 'a cut';
        $c = dial('tls');
        script(stall => "token a\nstall\n");
        ask($c, '/sse?script=stall');
        ok read_until($c, '"a"'), 'a stalled one';
        close $c->{socket};
        is wait_for('aborted/1'), 200, 'a client that left is noticed';
        my $plain = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$tls_port");
        syswrite $plain, "GET / HTTP/1.1\r\n\r\n";
        my $got = sysread $plain, my $bytes, 100;
        $got = sysread $plain, $bytes, 100 while $got;
        ok !$got, 'plain text on the TLS port ends';
    };
}

subtest 'the end' => sub {
    my $held = ask(dial(), '/sse?rate=1&tokens=1000', '{}');
    is wait_for('active/1'), 200, 'a stream is running';
    kill TERM => $pid;
    waitpid $pid, 0;
    undef $pid;
    is $?, 0, 'SIGTERM: exit code 0';
    ok !-e "$dir/socket", 'the socket file is gone';
    like slurp("$dir/err"), qr/\A(?:==\d+==.*\n)*chatstream-upstream: \{"requests":/, 'a summary on stderr';
    unlike slurp("$dir/err"), qr/ERROR: \w+Sanitizer|runtime error/, 'no sanitizer has complained';
    start('--listen', '127.0.0.1:0', '--quiet');
    ($port) = slurp("$dir/out") =~ /:(\d+)$/m;
    is get('/sse')->{status}, 200, 'without a port file';
    kill INT => $pid;
    waitpid $pid, 0;
    undef $pid;
    is $?, 0, 'SIGINT: exit code 0';
    is join('', grep { !/^==/ } split /^/, slurp("$dir/err")), '', 'and --quiet is quiet';
    for my $wrong ([ '--port' ], [ '--listen', 'nowhere' ], [ '--tls', $cert, $key ], [ '--unix', '/' . 'x' x 200 ]) {
        my $status = system qq('$program' @$wrong >'$dir/out' 2>'$dir/err');
        ok $status == 2 << 8 && -s "$dir/err", "exit code 2: $wrong->[0]";
    }
    my $help = `'$program' --help`;
    ok $? == 0 && $help =~ /^usage:/, '--help';
};

done_testing();
