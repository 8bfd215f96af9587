#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# chatstream-health: the flag as it stands where one asks, and how many streams there are.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

sub health { return qq(<Location "$_[0]">\n    SetHandler chatstream-health\n    $_[1]\n</Location>\n) }

my $t = ChatStream::Test->new(
    children      => 2,
    config        => chat('/chat', 'sse?script=two') . health('/on', 'ChatStreamEnabled On') . health('/off', 'ChatStreamEnabled Off') . health('/unsaid', ''),
    server_config => 'ChatStreamMaxStreams 4',
);
$t->upstream->script(two => "token a\nwait end\ndone\n");

my $answer = $t->request('/on');
is $answer->status, 200, 'status';
is $answer->header('content-type'), 'application/json', 'content type';
is $answer->header('cache-control'), 'no-store', 'never from a cache';
is $answer->header('content-length'), length $answer->body, 'of known length';
my $health = $answer->json;
is $health->{status}, 'ok', 'all is well';
is_deeply $health->{features}, { sse_streaming => JSON::PP::true }, 'the flag is on';
is_deeply { map { $_ => $health->{streams}{$_} } qw(active max) }, { active => 0, max => 4 }, 'no stream yet';
is_deeply $t->request('/off')->json->{features}, { sse_streaming => JSON::PP::false }, 'the flag is off where it is off';
is_deeply $t->request('/unsaid')->json->{features}, { sse_streaming => JSON::PP::false }, 'and where nobody said anything';

my @streams;
for my $number (1 .. 4) {
    push @streams, my $stream = $t->stream('/chat?message=a');
    $stream->event_of('token');
    is $t->health->{streams}{active}, $number, "$number active, whichever child is asked" for 1 .. 6;
}
$answer = $t->request('/on');
is $answer->status, 200, 'a full server still serves';
is $answer->json->{status}, 'degraded', 'but says that it is full';
$t->upstream->signal('end');
is $_->next_event->{json}{type}, 'complete', 'a stream ends' for @streams;
ok $t->wait_active(0), 'ended streams are not active';
is $t->request('/on')->json->{status}, 'ok', 'and all is well again';
is $t->request('/on')->json->{streams}{kept}, 4, 'kept for those who come back';
$_->close for @streams;

is $t->request('/on', method => 'HEAD')->status, 200, 'HEAD';
for my $method (qw(POST DELETE)) {
    my $answer = $t->request('/on', method => $method, body => 'x' x 1000);
    is $answer->status, 405, "$method: 405";
    is $answer->header('allow'), 'GET, HEAD', "$method: Allow";
    is $answer->json->{code}, 'method_not_allowed', "$method: code";
}
$t->done;
