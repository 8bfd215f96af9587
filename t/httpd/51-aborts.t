#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Clients that go away at any moment, in any way, thousands of them: before they have asked, in the middle of a question, before
# the answer's head, in the middle of it, after its end. Nobody gets a byte that was meant for one who left. Afterwards nothing is
# left of them: no stream, no block, no descriptor, no memory, and no child has died.
#
# CHATSTREAM_ABORTS=10000 for that many on each set-up (1,500 in all by default), CHATSTREAM_SEED to see a run again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Client;
use ChatStream::Test;
use IO::Select;
use List::Util qw(sum);
use Socket qw(SOL_SOCKET SO_LINGER SO_RCVBUF);
use Time::HiRes qw(time);

my $PARALLEL = 60;
my $seed = $ENV{CHATSTREAM_SEED} || time ^ $$;
srand $seed;
diag "CHATSTREAM_SEED=$seed";

my @brief = ('ChatStreamOnDisconnect abort 50ms', 'ChatStreamReplay 64k 1', 'ChatStreamMaxEvent 64k');
my $config = chat('/paced', 'sse?tokens=40&rate=400&size=40', @brief)
    . chat('/burst', 'sse?tokens=60&size=100', @brief)
    . chat('/large', 'sse?tokens=40&size=9000', @brief)
    . chat('/stall', 'sse?script=stall', @brief)
    . chat('/silent', 'sse?script=silent', @brief)
    . chat('/late', 'sse?tokens=5&delay=30', @brief, 'ChatStreamCommitAfter 5ms')
    . chat('/cut', 'openai?script=cut', @brief)
    . chat('/refused', 'text?status=500', @brief)
    . chat('/document', 'sse?tokens=20&rate=400', @brief, 'SetHandler chatstream-complete')
    . chat('/raw', 'sse?tokens=40&rate=400', @brief, 'ChatStreamFormat raw');
my @paths = $config =~ /<Location "([^"]+)">/g;

my ($t, %ask, @ids, %done, %foreign);

sub any { return $_[ int rand @_ ] }

sub request_text
{
    my $path = any(@paths);
    my %options = (path => "$path?message=" . 'm' x rand 200, keep_alive => rand() < 0.3);
    my $kind = rand;
    if ($kind < 0.2) {
        %options = (%options, path => $path, json => { message => 'j' x rand 5000 });
    }
    elsif ($kind < 0.4 && @ids) {
        $options{headers} = [ 'Last-Event-ID' => any(@ids) . ':' . int rand 30 ];
    }
    elsif ($kind < 0.5 && @ids) {
        %options = (%options, method => 'DELETE', path => "$path?stream_id=" . any(@ids));
    }
    elsif ($kind < 0.6) {
        $options{headers} = [ 'Idempotency-Key' => 'key' . int rand 20 ];
    }
    return ChatStream::Client::request_text(%options);
}

# When it goes: with how much of the request sent, how many bytes read, how long after it came; whatever is reached first.
sub new_client
{
    my $text = request_text();
    my $client = { sent => length $text, bytes => 1e9, until => time + 0.4, how => any(qw(RST FIN half)) };
    my $moment = any(qw(connected asking asked time time bytes bytes bytes end));
    $client->{moment} = $moment;
    $client->{sent} = 0 if $moment eq 'connected';
    $client->{sent} = int rand length $text if $moment eq 'asking';
    $client->{until} = 0 if $moment eq 'connected' || $moment eq 'asking' || $moment eq 'asked';
    $client->{until} = time + rand 0.08 if $moment eq 'time';
    $client->{bytes} = 1 + int rand any(300, 2_000, 40_000) if $moment eq 'bytes';

    $client->{stream} = $t->open('/', %ask, raw => '', rand() < 0.3 ? (receive_buffer => 4096) : ());
    $client->{stream}->send(substr $text, 0, $client->{sent});
    @$client{qw(read text)} = (0, '');
    return $client;
}

sub leave
{
    my ($client) = @_;
    my $stream = $client->{stream};
    if ($client->{how} eq 'RST') {
        $stream->abort;
    }
    elsif ($client->{how} eq 'half') {
        $stream->half_close;
        $stream->close;
    }
    else {
        $stream->close;
    }
    $done{ $client->{moment} }++;
    $done{events} += $client->{seen} || 0;
    return;
}

# A head comes first, and every event is of the stream the head names.
sub look_for_foreign_bytes
{
    my ($client) = @_;
    if (!$client->{id} && $client->{text} =~ /^X-Stream-Id: (\S+)/mi) {
        $client->{id} = $1;
        push @ids, $1;
        shift @ids if @ids > 30;
    }
    $foreign{"$1 before the head"}++ if $client->{text} !~ m{^HTTP/1\.1 } && $client->{text} =~ /^(.{9})/s;
    while ($client->{text} =~ /^id: ([0-9a-f-]{36}):\d+$/mg) {
        $foreign{"$1 among events of " . ($client->{id} // 'no stream')}++ if $1 ne ($client->{id} // '');
        $client->{seen}++;
    }
    $client->{text} =~ s/.*^id: [0-9a-f-]{36}:\d+$/HTTP\/1.1 /sm;
    return;
}

# Reads what there is; true when the client has had enough, or there is no more.
sub has_enough
{
    my ($client) = @_;
    while (1) {
        my $got = sysread $client->{stream}->socket, my $bytes, 16384;
        if (!$got) {
            return defined $got || (!$!{EAGAIN} && !$!{EWOULDBLOCK});
        }
        $client->{read} += $got;
        $client->{text} .= $bytes;
        look_for_foreign_bytes($client);
        return 1 if $client->{read} >= $client->{bytes};
    }
}

sub aborts
{
    my ($number) = @_;
    my $select = IO::Select->new;
    my %clients;
    while ($number > 0 || %clients) {
        while ($number > 0 && keys %clients < $PARALLEL) {
            my $client = new_client();
            $clients{ fileno $client->{stream}->socket } = $client;
            $select->add($client->{stream}->socket);
            $number--;
        }
        my %ready = map { fileno $_ => 1 } $select->can_read(0.002);
        my $now = time;
        for my $fd (keys %clients) {
            my $client = $clients{$fd};
            # A TLS client may hold bytes that select does not know of.
            next if !($now >= $client->{until} || (($ready{$fd} || $ask{tls}) && has_enough($client)));
            $select->remove($client->{stream}->socket);
            delete $clients{$fd};
            leave($client);
        }
    }
    return;
}

sub resident { return sum map { slurp("/proc/$_/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : 0 } $t->children }

sub quiet
{
    my $health;
    return wait_until(sub {
        $health = eval { $t->health } or return 0;
        return !$health->{streams}{active} && !$health->{streams}{kept} && $health->{arena}{free} == $health->{arena}{blocks};
    }, 20) || diag 'health: ', explain $health;
}

my @setups = (
    { name => 'event',  share => 0.4, server => { mpm => 'event' } },
    { name => 'TLS',    share => 0.3, server => { mpm => 'event', tls => 1 }, ask => { tls => 1 } },
    { name => 'worker', share => 0.3, server => { mpm => 'worker', threads => 100 } },
);

for my $setup (@setups) {
    my $name = $setup->{name};
    next if $ENV{CHATSTREAM_ONLY} && $ENV{CHATSTREAM_ONLY} ne $name;
    my $number = $ENV{CHATSTREAM_ABORTS} || 1_500 * $setup->{share};
    %ask = %{ $setup->{ask} || {} };
    @ids = ();
    %done = %foreign = ();
    $t = ChatStream::Test->new(
        config => $config, children => 2, env => { MALLOC_ARENA_MAX => 2 },
        server_config => "KeepAliveTimeout 1\n", %{ $setup->{server} },
    );
    $t->upstream->script(stall  => "token one\ntoken two\nstall\n");
    $t->upstream->script(silent => "stall\n");
    $t->upstream->script(cut    => "token one\nsleep 10\ncut\n");
    # That is what these two upstreams are for; the others have nothing to complain of.
    $t->allow_log(qr{ended as error \(upstream_error\): upstream \S+/openai: }, qr{\Q(upstream_error)\E: upstream \S+/text: answered 500$});
    my @children = $t->children;
    my $began = time;

    aborts($number / 2);
    ok quiet(), "$name: no stream and no block is left of the first half";
    my $first = resident();
    aborts($number / 2);
    ok quiet(), "$name: nor of the second";
    my $grown = resident() - $first;
    note sprintf '%s: %d aborts in %.1f s: %s; %d kB after the first half, %+d kB after the second', $name, $number,
        time - $began, join(', ', map { "$_ $done{$_}" } sort keys %done), $first, $grown;
    is join("\n", sort keys %foreign), '', "$name: everybody got what was meant for them" or diag explain \%foreign;
    cmp_ok $done{events}, '>', $number, "$name: and much of that";
    # A leak of one small pool for each would be more.
    cmp_ok $grown, '<', 4_000 + 2 * $number, "$name: memory does not grow" if !$t->httpd->{sanitized};
    is "@{[ $t->children ]}", "@children", "$name: the children live";
    is $t->upstream->count('active'), 0, "$name: nothing runs upstream";

    my $stream = $t->stream('/paced?message=hi', %ask);
    is scalar(grep { ($_->{json}{type} // '') eq 'token' } $stream->events), 40, "$name: a client that stays is served";
    $stream->close;
    $t->check;
}
done_testing();
