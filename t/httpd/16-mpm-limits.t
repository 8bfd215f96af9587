#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# How many streams there may be; what the MPM, mod_status and the access log make of connections without a thread.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $config = chat('/chat', 'sse?script=it')
    . chat('/whole', 'sse?tokens=50&size=100')
    . chat('/fail', 'sse?status=500')
    . qq(<Location "/server-status">\n    SetHandler server-status\n</Location>\n);

# ---- the warning at start-up ---------------------------------------------------------------------------------------------

sub start_up
{
    my ($server_config, %options) = @_;
    my $t = ChatStream::Test->new(start => 0, threads => 10, server_config => $server_config, %options);
    my ($valid, $said) = $t->httpd->check_config;
    (my $name = $server_config) =~ s/\n/, /g;
    ok $valid, "configtest passes: $name" or diag $said;
    my $warning = join "\n", grep { /chatstream/ } split /\n/, $said;
    $t->check;
    return $warning;
}

# A child holds its threads, and for each thread that is idle as many more as the factor says.
like start_up("AsyncRequestWorkerFactor 2\nChatStreamMaxStreams 31"),
    qr/chatstream:warn.*holds about 30 connections, ChatStreamMaxStreams is 31: set AsyncRequestWorkerFactor to \d+ or more/,
    'a factor too small is told, with what would do';
is start_up("AsyncRequestWorkerFactor 2\nChatStreamMaxStreams 30"), '', 'one that suffices is not';
is start_up("AsyncRequestWorkerFactor 2\nChatStreamMaxStreams 90", children => 3), '', 'all children count';
like start_up("AsyncRequestWorkerFactor 2\nChatStreamMaxStreams 91", children => 3), qr/chatstream:warn/, 'but not more of them';
my ($advice) = start_up("AsyncRequestWorkerFactor 2\nChatStreamMaxStreams 1000") =~ /to (\d+) or more/;
is start_up("AsyncRequestWorkerFactor $advice\nChatStreamMaxStreams 1000"), '', 'the advice is good';

# ---- ChatStreamMaxStreams ------------------------------------------------------------------------------------------------

for my $setup ({ mpm => 'event', children => 2 }, { mpm => 'worker' }) {
    my $mpm = $setup->{mpm};
    my $t = ChatStream::Test->new(%$setup, config => $config, server_config => 'ChatStreamMaxStreams 3');
    $t->upstream->script(it => "token a\nwait end\ndone\n");
    my @streams = map { $t->stream('/chat?message=a') } 1 .. 3;
    $_->event_of('token') for @streams;
    for my $try (1 .. 4) {
        my $answer = $t->request('/chat?message=a');
        is $answer->status, 503, "$mpm: a fourth is refused";
        like $answer->header('retry-after'), qr/^[1-9]\d*$/, "$mpm: with Retry-After";
        is $answer->json->{code}, 'unavailable', "$mpm: and its code";
    }
    is $t->upstream->count('requests'), 3, "$mpm: nobody was asked for it";
    is $t->health->{streams}{active}, 3, "$mpm: the three live on";
    $t->upstream->signal('end');
    is $_->next_event->{json}{type}, 'complete', "$mpm: to their end" for @streams;
    # What is kept for a resume gives way.
    @streams = map { $t->stream('/chat?message=a') } 1 .. 3;
    is join(' ', map { $_->status } @streams), '200 200 200', "$mpm: then there is room for three again";
    is $_->answer, 'a', "$mpm: whole" for @streams;
    $_->close for @streams;
    is $t->request('/fail?message=a')->status, 502, "$mpm: a failure" for 1 .. 4;
    is $t->stream('/chat?message=a')->answer, 'a', "$mpm: holds no slot";
    $t->expect_log(qr/ended as error \(upstream_error\)/);
    $t->check;
}

# ---- mod_status ----------------------------------------------------------------------------------------------------------

{
    my $t = ChatStream::Test->new(
        config => $config, modules => ['status'], tls => 1, threads => 5,
        server_config => "ExtendedStatus On\nChatStreamMaxStreams 100",
    );
    $t->upstream->script(it => "token a\nwait end\ndone\n");
    my @streams = map { $t->stream('/chat?message=a', tls => $_ % 2) } 1 .. 12;
    $_->event_of('token') for @streams;
    for my $round (1 .. 10) {
        my $page = $t->request($round % 2 ? '/server-status?auto' : '/server-status');
        is $page->status, 200, 'the status page, while connections have no thread';
    }
    $_->abort for splice @streams, 0, 6;
    is $t->request('/server-status')->status, 200, 'after some clients went away';
    $t->upstream->signal('end');
    is join(' ', map { $_->answer } @streams), join(' ', ('') x 6), 'the others end';
    $_->close for @streams;
    ok wait_until(sub { $t->request('/server-status?auto')->body =~ /^BusyWorkers: 1$/m }, 10), 'no thread is left busy';
    $t->check;
}

# ---- the access log ------------------------------------------------------------------------------------------------------

for my $setup ({ mpm => 'event' }, { mpm => 'worker' }) {
    my $mpm = $setup->{mpm};
    my $t = ChatStream::Test->new(%$setup, config => $config, server_config => "ChatStreamMaxStreams 100\n"
        . qq(CustomLog logs/lines.log "%{X-Case}i %>s %s %O %B %{X-Stream-Id}o %X"));
    my $lines = $t->dir . '/logs/lines.log';
    my $line = sub {
        my ($case) = @_;
        my @lines;
        wait_until(sub { @lines = grep { /^\Q$case\E / } split /\n/, slurp($lines) // ''; scalar @lines }, 10);
        return @lines;
    };
    for my $case ([ 'whole', '/whole?message=a', 200 ], [ 'failed', '/fail?message=a', 502 ], [ 'refused', '/whole', 400 ]) {
        my ($name, $path, $status) = @$case;
        my $answer = $t->request($path, headers => { 'X-Case' => $name });
        my @lines = $line->($name);
        is scalar(@lines), 1, "$mpm, $name: one line";
        my (undef, $last, $first, $sent, undef, $id) = split / /, $lines[0];
        is "$last $first", "$status $status", "$mpm, $name: with its status";
        is $sent, $answer->bytes, "$mpm, $name: and the bytes that were sent";
        is $id, $answer->header('x-stream-id') // '-', "$mpm, $name: and its stream";
    }
    $t->upstream->script(it => "token a\nwait end\ndone\n");
    my $aborted = $t->stream('/chat?message=a', headers => { 'X-Case' => 'aborted' });
    $aborted->event_of('token');
    is scalar(() = (slurp($lines) =~ /^aborted/mg)), 0, "$mpm: no line while a stream runs";
    my $bytes = $aborted->bytes;
    $aborted->abort;
    my @lines = $line->('aborted');
    is scalar(@lines), 1, "$mpm, aborted: one line";
    like $lines[0], qr/^aborted 200 200 $bytes \d+ \S+ X$/, "$mpm, aborted: what was sent, and that it was cut";
    my $running = $t->stream('/chat?message=a', headers => { 'X-Case' => 'stopped' });
    $running->event_of('token');
    ok $t->stop, "$mpm: httpd stops under a stream";
    my $told = $running->body;
    if ($mpm eq 'event') {
        like $told, qr/"type":"error","code":"shutting_down"[^\n]*"retryable":true\}\n\n$/, "$mpm: which is told";
        ok $running->complete, "$mpm: and ends properly";
    }
    else {
        # This MPM closes its connections before it tells any module.
        ok !$running->complete, "$mpm: which is cut";
    }
    $running->close;
    for my $case (qw(whole failed refused aborted stopped)) {
        is scalar(() = (slurp($lines) =~ /^$case /mg)), 1, "$mpm, $case: one line, in the end too";
    }
    $t->expect_log(qr/ended as error \(upstream_error\)/);
    $t->check;
}
done_testing();
