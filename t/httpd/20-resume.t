#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A client that was cut off comes back with the id of its last event and gets the rest: every event exactly once, and the
# upstream is never asked again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Digest::SHA qw(sha1_base64);
use MIME::Base64 qw(encode_base64);

my $t = ChatStream::Test->new(
    modules => [qw(authn_core authn_file auth_basic authz_user)],
    config  => patient() . chat('/chat', 'sse?script=two', 'ChatStreamOnDisconnect detach')
        . chat('/raw',  'sse?script=raw', 'ChatStreamOnDisconnect detach', 'ChatStreamFormat raw')
        . chat('/wait', 'sse?script=wait')
        . chat('/small', 'sse?script=long', 'ChatStreamReplay 4k 300', 'ChatStreamMaxEvent 16k',
            'ChatStreamOnDisconnect detach')
        . chat('/brief', 'sse?tokens=3', 'ChatStreamReplay 64k 0.1')
        . chat('/user', 'sse?tokens=3', 'AuthType Basic', 'AuthName test', 'AuthUserFile conf/users', 'Require valid-user'),
    start => 0,
);
open my $users, '>', $t->dir . '/conf/users' or die $!;
print $users map { "$_:{SHA}" . sha1_base64("$_-password") . "=\n" } qw(ann bob);
close $users;
chmod 0644, $t->dir . '/conf/users';
$t->start;

my $up = $t->upstream;
my $UNKNOWN = '0191f2a0-1234-7abc-8def-0123456789ab';

# The numbers of events, and the stream they are of.
sub numbers { return join ' ', map { ($_->{id} // '-') =~ /:(\d+)$/ ? $1 : '-' } @_ }
sub types { return join ' ', map { ref $_->{json} ? $_->{json}{type} // '?' : '?' } @_ }
sub resume { my ($path, $id, @rest) = @_; return $t->stream($path, headers => { 'Last-Event-ID' => $id }, @rest) }

sub script_two { $up->script(two => "token one\ntoken two\nwait go\ntoken three\ntoken four\ndone\n") }

# ---- in mid-stream, by header and by parameter, whatever else the request says -------------------------------------------

script_two();
for my $how ('header', 'parameter', 'JSON body', 'form body', 'header and parameter') {
    $up->reset;
    script_two();
    my $stream = $t->stream('/chat?message=hi');
    my $id = $stream->header('x-stream-id');
    my @before = map { $stream->next_event } 1 .. 3;
    is types(@before), 'start token token', "$how: the beginning";
    is $before[2]{id}, "$id:3", "$how: ids name the stream and count";
    $stream->abort;

    # The second token was seen, its event is not repeated; the upstream still waits.
    my $last = "$id:2";
    my $again =
          $how eq 'header' ? resume('/chat?message=hi', $last)
        : $how eq 'parameter' ? $t->stream("/chat?message=hi&last_event_id=$last")
        : $how eq 'JSON body' ? $t->stream('/chat', json => { message => 'hi', last_event_id => $last })
        : $how eq 'form body' ? $t->stream('/chat', body => "message=hi&last_event_id=$last",
            headers => { 'Content-Type' => 'application/x-www-form-urlencoded' })
        : resume("/chat?last_event_id=$id:0", $last);
    is $again->status, 200, "$how: resumed";
    is $again->header('x-stream-id'), $id, "$how: the same stream";
    my $event = $again->next_event;
    is $event->{id}, "$id:3", "$how: what comes first is what came next";
    is $event->{json}{content}, 'two', "$how: with its text";
    is $again->retry, 1000, "$how: the retry line is said again";
    $up->signal('go');
    my @rest = $again->events;
    is numbers(@rest), '4 5 6', "$how: the rest, each once";
    is types(@rest), 'token token complete', "$how: to the end";
    ok $again->complete, "$how: which is a proper one";
    is $up->count('requests'), 1, "$how: the upstream was asked once";
    $again->close;
}

# ---- after the end -------------------------------------------------------------------------------------------------------

$up->reset;
$up->script(two => "token one\ntoken two\ntoken three\ndone\n");
my $whole = $t->request('/chat?message=hi');
my $id = $whole->header('x-stream-id');
my @all = $whole->events;
is numbers(@all), '1 2 3 4 5', 'a whole stream';
for my $seen (0 .. 4) {
    my $again = resume('/chat', "$id:$seen");
    my @rest = $again->events;
    is numbers(@rest), join(' ', $seen + 1 .. 5), "after the end, after event $seen: the rest";
    is join("\n", map { $_->{data} } @rest), join("\n", map { $_->{data} } @all[ $seen .. 4 ]), 'and the same bytes';
    $again->close;
}
for my $path ('/chat', '/chat?message=hi') {
    my $again = $t->request($path, headers => { 'Last-Event-ID' => "$id:5" });
    is $again->status, 204, "$path: nothing is left to be told";
    is $again->body, '', "$path: in no words";
}
is $t->request("/chat?last_event_id=$id:5")->status, 204, 'the same by parameter';
is $up->count('requests'), 1, 'the upstream was asked once';

# ---- raw: the upstream's own events, numbered as well ---------------------------------------------------------------------

$up->reset;
$up->script(raw => "send data: one\\n\\n\nsend data: two\\n\\n\nwait go\nsend event: three\\ndata: 3\\n\\n\n");
my $raw = $t->stream('/raw?message=hi');
my $raw_id = $raw->header('x-stream-id');
is numbers($raw->next_event, $raw->next_event), '1 2', 'raw: the first event has number 1';
$raw->abort;
$raw = resume('/raw', "$raw_id:1");
is_deeply [ @{ $raw->next_event }{qw(id data)} ], [ "$raw_id:2", 'two' ], 'raw: resumed in mid-stream';
$up->signal('go');
is_deeply [ map { [ @$_{qw(id event data)} ] } $raw->events ], [ [ "$raw_id:3", 'three', '3' ] ], 'raw: the rest';
is numbers(resume('/raw', "$raw_id:0")->events), '1 2 3', 'raw: from the beginning';
is $t->request('/raw', headers => { 'Last-Event-ID' => "$raw_id:3" })->status, 204, 'raw: nothing left';
is $up->count('requests'), 1, 'raw: the upstream was asked once';

# ---- 410, and never a second generation -----------------------------------------------------------------------------------

$up->reset;
my %gone = (
    'an unknown stream'    => "$UNKNOWN:3",
    'no number'            => $id,
    'an empty number'      => "$id:",
    'a negative number'    => "$id:-1",
    'a leading zero'       => "$id:03",
    'too large a number'   => "$id:99999999999999999999999",
    'words'                => 'rubbish',
    'another separator'    => "$id-3",
    'something behind it'  => "$id:3x",
    'a cut id'             => substr($id, 1) . ':3',
    'far too long'         => 'x' x 4000,
);
for my $what (sort keys %gone) {
    my $answer = $t->request('/chat?message=hi', headers => { 'Last-Event-ID' => $gone{$what} });
    is $answer->status, 410, "$what: 410";
    is $answer->header('content-type'), 'application/problem+json', "$what: a problem document";
    is $answer->json->{code}, 'gone', "$what: that says so";
}
is $t->request("/chat?message=hi&last_event_id=rubbish")->status, 410, 'by parameter too';

my $brief = $t->request('/brief?message=hi');
my $brief_id = $brief->header('x-stream-id');
ok wait_until(sub { $t->request('/brief', headers => { 'Last-Event-ID' => "$brief_id:1" })->status == 410 }, 15),
    'a stream past its time is gone';
is $t->request('/brief', headers => { 'Last-Event-ID' => "$brief_id:5" })->status, 410, 'also for who had all of it';
is $up->count('requests'), 1, 'none of these asked the upstream';

# ---- another user's -------------------------------------------------------------------------------------------------------

my %auth = map { $_ => 'Basic ' . encode_base64("$_:$_-password", '') } qw(ann bob);
my $anns = $t->request('/user?message=hi', headers => { Authorization => $auth{ann} });
is $anns->status, 200, "a user's stream";
my $ann_id = $anns->header('x-stream-id');
is $t->request('/user', headers => { Authorization => $auth{bob}, 'Last-Event-ID' => "$ann_id:1" })->status, 410,
    'is unknown to another user';
is $t->request('/user', headers => { Authorization => $auth{ann}, 'Last-Event-ID' => "$ann_id:1" })->status, 200,
    'and known to the first';
is $t->request('/user', headers => { Authorization => $auth{ann}, 'Last-Event-ID' => "$ann_id:1" }, from => '127.0.0.2')->status,
    200, 'from whatever address';
is $t->request('/chat', headers => { 'Last-Event-ID' => "$ann_id:1" })->status, 410, 'and unknown to nobody in particular';
is $t->request('/chat', headers => { 'Last-Event-ID' => "$id:1" }, from => '127.0.0.2')->status, 410,
    'without a user, the address is the identity';
is $t->request('/chat', headers => { 'Last-Event-ID' => "$id:1" })->status, 200, 'and the first address still has it';

# ---- the gap --------------------------------------------------------------------------------------------------------------

# 60 events of about 200 bytes into 4k.
$up->reset;
my $word = 'x' x 200;
$up->script(long => "token first\nwait left\n" . "token $word\n" x 60 . "wait seen\ntoken last\ndone\n");
my @key = ('Idempotency-Key' => 'the-long-one');
my $slow = $t->stream('/small?message=hi', headers => \@key);
my $small_id = $slow->header('x-stream-id');
is $slow->event_of('token')->{id}, "$small_id:2", 'gap: a reader has two events';
$slow->abort;
$up->signal('left');
# Event 62 is the last before the wait: who sees it knows that the rest has been dropped.
sub head_and_tail
{
    my $reader = resume('/small', "$small_id:2");
    my @events = $reader->next_event;
    push @events, $reader->next_event while $events[-1] && $events[-1]{id} ne "$small_id:62";
    return ($reader, @events);
}
(head_and_tail())[0]->close;    # now all is written, and the log stays as it is
my ($reader, $first, @then) = head_and_tail();
is $first->{json}{type}, 'gap', 'gap: what comes first says what is missing';
is $first->{json}{from}, 3, 'gap: from the event after the last one seen';
my $to = $first->{json}{to};
cmp_ok $to, '>=', 30, 'gap: much was dropped';
cmp_ok $to, '<', 62, 'gap: not all';
is $first->{id}, "$small_id:$to", 'gap: its id is the last one missing';
is numbers(@then), join(' ', $to + 1 .. 62), 'gap: then what is there, each once';
is numbers((resume('/small', $first->{id})->next_event)), $to + 1, 'gap: a resume from its id goes on behind it';
my @fresh = map { $_->next_event } (resume('/small', "$small_id:0")) x 3;
is types(@fresh[ 0, 1 ]), 'start gap', 'gap: from the very beginning the start comes first';
is "$fresh[1]{json}{from} $fresh[1]{json}{to}", "2 $to", 'gap: and the gap begins behind it';
is types(resume('/small', "$small_id:" . ($to - 1))->next_event), 'gap', 'gap: of one event is still told';
my $joined = $t->stream('/small?message=hi', headers => \@key);
is $joined->header('x-stream-id'), $small_id, 'gap: who asks with the same key joins';
@fresh = ($joined->next_event, $joined->next_event);
is types(@fresh), 'start gap', 'gap: and is told as well';
is "$fresh[1]{json}{from} $fresh[1]{json}{to}", "2 $to", 'gap: all of it';
$up->signal('seen');
is types($reader->events), 'token complete', 'gap: the rest comes live';
is types((resume('/small', "$small_id:2")->next_event)[0]), 'gap', 'gap: after the end too';
is $up->count('requests'), 1, 'gap: the upstream was asked once';

# ---- a second tab, and one too many ---------------------------------------------------------------------------------------

$up->reset;
script_two();
my @tabs = $t->stream('/chat?message=hi');
my $tab_id = $tabs[0]->header('x-stream-id');
push @tabs, resume('/chat', "$tab_id:0") for 2 .. 8;
my $ninth = $t->request('/chat', headers => { 'Last-Event-ID' => "$tab_id:0" });
is $ninth->status, 503, 'a ninth reader is too many';
is $ninth->json->{code}, 'unavailable', 'and is told so';
ok $ninth->header('retry-after'), 'and when to come again';
my @seen = map { my $tab = $_; join '|', map { $tab->next_event->{data} } 1 .. 3 } @tabs;
like $seen[0], qr/"start".*"one".*"two"/, 'the first tab sees the beginning';
is_deeply \@seen, [ ($seen[0]) x 8 ], 'and all others see the same';
pop(@tabs)->abort;
my $replacement = wait_until(sub {
    my $try = resume('/chat', "$tab_id:3");
    return $try if $try->status == 200;
    $try->close;
    return undef;
}, 10);
ok $replacement, 'when one has left, another may come';
$up->signal('go');
my @ends = map { [ $_->events ] } @tabs, $replacement;
is numbers(@{ $ends[0] }), '4 5 6', 'a tab sees the end';
is_deeply [ map { join "\n", map { $_->{data} } @$_ } @ends ], [ (join "\n", map { $_->{data} } @{ $ends[0] }) x 8 ],
    'and all others see the same';
is $up->count('requests'), 1, 'for one request upstream';

# ---- before the upstream has answered anything ----------------------------------------------------------------------------

$up->reset;
$up->script(wait => "wait go\ntoken one\ndone\n");
my $early = $t->stream('/wait?message=hi');    # committed after ChatStreamCommitAfter
my $early_id = $early->header('x-stream-id');
is $early->next_event->{json}{type}, 'start', 'a stream that has nothing yet';
$early->abort;
$early = resume('/wait', "$early_id:1");
is $early->status, 200, 'can be resumed';
$up->signal('go');
is numbers($early->events), '2 3', 'and tells what comes';
$t->done;
